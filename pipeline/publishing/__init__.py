"""A model file to the Hugging Face hub.

card    the model card: what the model file and the run folder beside it say, and nothing else
push    model file, digest and card in one commit
"""
