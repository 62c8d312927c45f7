"""Ways to break the models of pictures, and what brings pictures to them."""

from __future__ import annotations

from tests.laws.mutations import CORE, Mutant

MODELS, NN, ENGINE = "src/chainrule/models/", "src/chainrule/nn/", "src/chainrule/engine/"
TRAINING, UNIT = "src/chainrule/training/", "tests/unit/"

PICTURES = [
    Mutant(
        "a convolution that sees its own pixel",
        MODELS + "pixelcnn.py",
        "F.pad(e[..., :-1], (near, 0))",
        "F.pad(e, (near - 1, 0))",
        "pixelcnn-grey",
    ),
    Mutant(
        "a kept row whose layers are not dilated",
        MODELS + "pixelcnn.py",
        "first = (begin - layer.apart * width)[:, None]",
        "first = (begin - width)[:, None]",
        "pixelcnn-grey",
    ),
    Mutant(
        "a stack that is not told its label",
        MODELS + "pixelcnn.py",
        "h + told[1][..., None, None]",
        "h",
        "pixelcnn-labels",
    ),
    Mutant(
        "pixels left of the picture that are its last of the row above",
        MODELS + "pixelcnn.py",
        "left = (left * (column + back >= 0)[..., None])",
        "left = (left * (first[:, None] + back >= 0)[..., None])",
        "pixelcnn-grey",
    ),
    Mutant(
        "a mixture whose channels before don't weigh it",
        NN + "pixels.py",
        "torch.where(seen, mix + law.component_log_prob(symbol[..., i]), mix)",
        "mix + 0 * law.component_log_prob(symbol[..., i])",
        "pixelcnn-logistic",
    ),
    Mutant(
        "channels that see themselves",
        NN + "pixels.py",
        "sees = torch.ones(self.channels, self.channels).tril(-1)",
        "sees = torch.ones(self.channels, self.channels).tril()",
        "pixelcnn-labels or pixelrnn-labels",
    ),
    Mutant(
        "an input that isn't told which place it predicts",
        NN + "places.py",
        "next_ = [torch.cat([at, at[-1:]]) for at, _ in axes]",
        "next_ = own",
        "an_input_tells_its_own_place",
        UNIT + "test_pixel_transformer.py",
    ),
    Mutant(
        "a masked net's units that know one symbol too many",
        MODELS + "made.py",
        "self.mask.copy_(knows <= may[:, None])",
        "self.mask.copy_(knows <= may[:, None] + 1)",
        "made",
    ),
    Mutant(
        "diagonals from the right that lie in their own row",
        MODELS + "pixelrnn.py",
        "back = F.pad(back.flip(2), (0, 0, 0, 0, 1, 0))[:, :-1]",
        "back = back.flip(2)",
        "pixelrnn",
    ),
    Mutant(
        "diagonals that are not skewed back",
        MODELS + "pixelrnn.py",
        "every.unflatten(2, (height, width + height))[:, :, :, :width]",
        "torch.stack(kept, 3)[:, :, :, :width]",
        "pixelrnn",
    ),
    Mutant(
        "unknown places whose symbols are looked at",
        MODELS + "anyorder.py",
        "symbols = F.pad(x.masked_fill(~known, self.unknown)",
        "symbols = F.pad(x",
        "anyorder",
    ),
    Mutant(
        "blanks behind a state that know one symbol too few",
        MODELS + "anyorder.py",
        "given = (seen < at[:, :1]).scatter",
        "given = (seen < at[:, :1] - 1).scatter",
        "anyorder",
    ),
    Mutant(
        "orders whose late symbols weigh no more than early ones",
        TRAINING + "objectives.py",
        "nats.sum(1) * (length / (length - count[:, 0]))",
        "nats.sum(1)",
        "has_no_bias",
        UNIT + "test_any_order.py",
    ),
    Mutant(
        "blanks that are learned without their label",
        TRAINING + "objectives.py",
        "net.taught(x, copies, ~blank, batch.cond)",
        "net.taught(x, copies, ~blank)",
        "under_their_label",
        UNIT + "test_picture_training.py",
    ),
    Mutant(
        "a coarse order that names places twice",
        CORE + "grid.py",
        "by_level = torch.argsort(level.flatten(), descending=True, stable=True)",
        "by_level = torch.sort(level.flatten(), descending=True, stable=True).values",
        "every_place_once",
        UNIT + "test_picture_models.py",
    ),
    Mutant(
        "symbols that a program sees before they are consumed",
        ENGINE + "reference.py",
        "if number < place.consumed:",
        "if True:",
        "pixelcnn-labels",
    ),
    Mutant(
        "a program whose rows run into each other",
        ENGINE + "reference.py",
        "if 0 <= row < height and 0 <= column < width:",
        "if 0 <= row * width + column < height * width:",
        "pixelcnn-labels",
    ),
    Mutant(
        "levels rounded down",
        "src/chainrule/codecs/image.py",
        "((2 * value * top + 255) // 510)",
        "((2 * value * top) // 510)",
        "decode_undoes_encode",
        "tests/laws/test_codecs.py",
    ),
    Mutant(
        "an epoch that repeats the first",
        TRAINING + "pictures.py",
        "_order(config.seed, epoch, size)",
        "_order(config.seed, 0, size)",
        "once_an_epoch",
        UNIT + "test_picture_training.py",
    ),
    Mutant(
        "labels of other pictures",
        TRAINING + "pictures.py",
        "-1, self.labels[index])",
        "-1, self.labels[: len(index)])",
        "labels_is_not_told",
        UNIT + "test_picture_training.py",
    ),
]
