"""Layer 2: p(x_t | x_<t), one file a family."""
