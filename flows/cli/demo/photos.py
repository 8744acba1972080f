"""The photos of the demo catalogue, from the packages `foolbox` and `scikit-image`."""

from __future__ import annotations

# File name: the label of the photo, and the title of its article. Both default models are sure of each photo; one or
# both decline the others that the packages have, such as most of CIFAR's 32 × 32 pixels. The labels are those of the
# data sets (the last number of a file name is the class), with a second word where the article uses another name. Each
# pair was checked by eye: wrong labels are corrected (imagenet_12 is "prayer rug" in the data set, imagenet_14
# "spoonbill"), and photos without an article are left out.
PHOTOS: dict[str, tuple[str, str]] = {
    "imagenet_00_243.jpg": ("bull mastiff", "Mastiff"),
    "imagenet_01_559.jpg": ("folding chair", "Chair"),
    "imagenet_03_990.jpg": ("horse chestnut, seed", "Seed"),
    "imagenet_04_949.jpg": ("strawberry", "Strawberry"),
    "imagenet_05_853.jpg": ("thatched roof", "Roof"),
    "imagenet_07_609.jpg": ("jeep, vehicle", "Vehicle"),
    "imagenet_08_915.jpg": ("yurt, tent", "Tent"),
    "imagenet_10_541.jpg": ("drum", "Drum"),
    "imagenet_11_630.jpg": ("loafer, shoe", "Shoe"),
    "imagenet_12_741.jpg": ("stained glass window", "Window"),
    "imagenet_13_471.jpg": ("cannon", "Cannon"),
    "imagenet_14_129.jpg": ("wading bird", "Bird"),
    "imagenet_15_99.jpg": ("goose", "Goose"),
    "imagenet_16_251.jpg": ("dalmatian, dog", "Dog"),
    "imagenet_17_22.jpg": ("bald eagle", "Eagle"),
    "imagenet_18_317.jpg": ("leafhopper", "Leafhopper"),
    "imagenet_19_305.jpg": ("dung beetle", "Dung beetle"),
    "cifar10_04_6.png": ("frog", "Frog"),
    "cifar10_11_9.png": ("truck", "Truck"),
    "cifar10_14_9.png": ("freight truck", "Freight transport"),
    "cifar10_16_5.png": ("dog", "Canidae"),
    "cifar10_17_7.png": ("horse", "Equestrianism"),
    "cifar100_09_0.png": ("apple", "Apple"),
    "cifar100_12_81.png": ("streetcar, tram", "Tram"),
    "cifar100_14_40.png": ("lamp", "Electric light"),
    "cifar100_15_43.png": ("lion", "Lion"),
    "camera.png": ("camera", "Camera"),
    "chelsea.png": ("cat", "Cat"),
    "coffee.png": ("coffee", "Coffee"),
    "moon.png": ("moon", "Moon"),
}
