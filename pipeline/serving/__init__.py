"""Pages served to browsers, on the loopback unless more is allowed: what the live page and the labelling page share.

connections   a bounded number of connections, none that keeps its place while nothing happens on it
site          an application: known host names, events for those who watch, a token for all that changes things
server        the thread that serves a site
page/         the look of all such pages
"""
