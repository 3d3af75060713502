"""The verbs, one file each: erase, attack, audit, harden, share."""
