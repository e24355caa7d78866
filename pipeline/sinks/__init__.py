"""Events on their way to other programs: at least once, in order, whatever ends or is killed in between.

addresses   what somebody types as a receiver
webhook     an HTTP POST for each event
mqtt        a message of QoS 1 for each event
spool       events on disk until they are delivered
delivery    the thread that sends them and tries again
"""
