"""Few examples: a model from a folder of short videos a class, on a CPU, in a minute or two.

candidates   the heads that are tried, each a whole experiment with a frozen backbone
features     every video through the backbone once
heads        one head trained on features, and what it says of videos it has not seen
choice       cross-validation, and what accuracy to expect of the best
learn        all of it, into a model file
"""
