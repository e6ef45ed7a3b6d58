"""The lab: hosts that behave like fresh servers, on this very machine.

A lab host is a container with systemd as its first process, its own SSH server and, once a role
or a base image has put one there, its own Docker Engine. The demo, molecule and the system tests
all create and remove their hosts here.
"""
