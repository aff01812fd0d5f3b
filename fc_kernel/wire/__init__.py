"""What host and guest share: frames, links, the multiplexer, ports, the protocol. Python 3.9, standard library only."""
