"""For tests, ours and other projects': a monitor without virtualisation, and the suite that every monitor passes."""
