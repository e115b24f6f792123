"""Where the servers in `world` listen."""

WEB = 80
SSH = 22
ECHO = 7007
UDP_ECHO = 7008
AT_END = 7009
CLOSE_FIRST = 7010
HTTP3 = 4433
REPORT = 7000
