"""UnlearnCanvas's protocol on the emoji canvas."""
