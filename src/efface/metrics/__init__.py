"""Numbers over pictures: rates with intervals, FID, LPIPS, CLIP score."""
