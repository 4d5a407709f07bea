"""What ``--ckpt`` names: resolved to files, identified by a hash."""
