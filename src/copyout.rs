//! `--copy-out`: frames of the guest's → files of the host, staged and moved into position when they are whole.
