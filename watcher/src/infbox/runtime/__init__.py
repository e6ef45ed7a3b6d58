"""What every process of infbox needs to run: clocks, background work, sockets, systemd."""
