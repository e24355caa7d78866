"""From decoded frames to network input: ``frames`` for every use, ``augmentation`` for training with its ``crops`` and
``colours``, and ``without_torch`` the resize of ``frames`` again, for exported models."""
