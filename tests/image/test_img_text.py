"""What lodge-img says and how it ends is what qemu-img says and how it ends."""
import pytest

from img_stories import EVERY_FORMAT, FORMATS, QCOW2, SECRET, USAGE
from img_stories_formats import LUKS, OTHERS, VMDK
from twins import Twins, stories

VMDK_KINDS = ("monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse",
              "twoGbMaxExtentFlat", "streamOptimized")


# What Lodge says of an image and qemu-img does not know: where vhdx has its data. It
# repairs vdi and vmdk. And a vmdk image that cannot be made leaves another file behind.
LEFT_OUT = {"vhdx": ("map ", "compare -s", "s.img", "o.img", "d.img"),
            "vdi": ("check -r",), "vmdk": ("check -r", "-F raw", "-F foo", "backing_f")}


def every():
    for fmt in FORMATS:
        for n, story in enumerate(stories(EVERY_FORMAT, FMT=fmt)):
            odd = LEFT_OUT.get(fmt, ())
            yield f"{fmt}-{n}", [x for x in story if not any(o in x for o in odd)]
    for kind in VMDK_KINDS:
        for n, story in enumerate(stories(VMDK, SUB=kind)):
            yield f"vmdk-{kind}-{n}", story
    for name, text in (("usage", USAGE), ("qcow2", QCOW2), ("luks", LUKS), ("others", OTHERS)):
        for n, story in enumerate(stories(text, SECRET=SECRET)):
            yield f"about-{name}-{n}", story


def marked(name):
    """qemu-img makes a LUKS header by timing itself, and tries long on a busy machine."""
    slow = ("about-luks-0", "about-luks-1", "about-qcow2-0", "about-qcow2-9")
    return [pytest.mark.long] if name in slow else []


@pytest.mark.parametrize("story", [pytest.param(s, id=n, marks=marked(n))
                                   for n, s in every()])
def test_says_the_same(tmp_path, story):
    wrong = Twins(tmp_path).tell(story)
    assert not wrong, f"\n{wrong}"
