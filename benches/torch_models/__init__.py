"""The models of this project in PyTorch, written to be fast there: channels_last, affine maps folded
into the convolutions before them, in-place ReLU. They are the opponents of benches/train_step.py."""
