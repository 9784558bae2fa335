"""A data set's name in; its classes, colours, label rule and official splits out.

Class names and palettes are exactly those of mmsegmentation 1.2.2. It also writes ADE20K's "bed " with a blank at the end.
"""

from dataclasses import dataclass

IGNORE = 255  # the label of pixels without a class: they count neither in the loss nor in the scores


@dataclass(frozen=True)
class Split:
    """A split of a data set, and how many pictures its official release holds.

    Attributes:
        name: `"train"` or `"val"`.
        parts: `(part, number of pictures)` for each part that lies in its own folder or download, for example LoveDA's
            urban and rural.
        tiles: the number of examples that the pictures are cut into; None if each picture is an example.
    """

    name: str
    parts: tuple[tuple[str, int], ...]
    tiles: int | None = None

    @property
    def pictures(self):
        return sum(pictures for _, pictures in self.parts)

    @property
    def examples(self):
        return self.tiles or self.pictures


def _splits(train, val, tiles=(None, None)):
    """The splits train and val. For each: the number of pictures, or {part: number}; and the number of tiles or None."""
    return tuple(
        Split(name, tuple(parts.items()) if isinstance(parts, dict) else (("all", parts),), tile_count)
        for name, parts, tile_count in zip(("train", "val"), (train, val), tiles, strict=True)
    )


@dataclass(frozen=True)
class Dataset:
    """A data set that released models were trained on.

    Attributes:
        name: key of `DATASETS`, for example `"voc12aug"`.
        title: the name in the published table, for example `"Pascal VOC 2012 + Aug"`.
        classes: class names in label order.
        palette: one `(red, green, blue)` per class, each 0..255.
        reduce_zero_label: whether label files count from 1, with 0 for "no class": 0 becomes 255 (ignored)
            and every other label is lowered by one.
        licence: the terms of use in one line, with the official page. If they differ, the page is right.
        splits: the official splits, `train` and `val`.
        raw_ids: the value of each class in the official label files, in label order; None if the values are the labels, or
            the labels plus one with `reduce_zero_label`.
        ignored_ids: the other values in these files, which become 255.
        colour_labels: whether the official label files hold the palette's colours instead of ids.
        stray_colour: the label of a colour outside the palette, where such colours are allowed: 255 (ignored), or a class.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    reduce_zero_label: bool
    licence: str
    splits: tuple[Split, ...] = ()
    raw_ids: tuple[int, ...] | None = None
    ignored_ids: tuple[int, ...] = (IGNORE,)
    colour_labels: bool = False
    stray_colour: int = IGNORE

    def __post_init__(self):
        if len(self.classes) != len(self.palette):
            raise ValueError(
                f"A data set must have one colour per class. Received for {self.name!r}: "
                f"{len(self.classes)} classes, {len(self.palette)} colours."
            )
        if self.raw_ids is not None and len(self.classes) != len(self.raw_ids):
            raise ValueError(
                f"A data set must have one raw id per class. Received for {self.name!r}: "
                f"{len(self.classes)} classes, {len(self.raw_ids)} raw ids."
            )

    @property
    def num_classes(self):
        return len(self.classes)

    @property
    def label_ids(self):
        """`{value in the official label files: train id}`, 255 for ignored values, after all rules above.

        The train id of a class is its index in `classes`.
        """
        first = 1 if self.reduce_zero_label else 0
        raw_ids = range(first, first + self.num_classes) if self.raw_ids is None else self.raw_ids
        ignored = (0, *self.ignored_ids) if self.reduce_zero_label else self.ignored_ids
        return {**dict.fromkeys(ignored, IGNORE), **{raw: label for label, raw in enumerate(raw_ids)}}

    @property
    def label_colours(self):
        """`{(red, green, blue) in the official label files: train id}`, for `colour_labels`."""
        ignored = (
            {(0, 0, 0): IGNORE} if self.reduce_zero_label else {}
        )  # black is the border that ISPRS draws around objects
        return {**ignored, **{colour: label for label, colour in enumerate(self.palette)}}


def _names(text):
    """`"a, b , c"` -> `("a", "b ", "c")`: only the blank *after* a comma separates."""
    return tuple(name.lstrip() for name in text.strip().split(","))


def _colours(text):
    """`"ff0000 00ff00"` -> `((255, 0, 0), (0, 255, 0))`."""
    return tuple(tuple(bytes.fromhex(colour)) for colour in text.split())


CITYSCAPES_CLASSES = _names(
    """
    road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, terrain, sky,
    person, rider, car, truck, bus, train, motorcycle, bicycle
    """
)
CITYSCAPES_PALETTE = _colours(
    """
    804080 f423e8 464646 66669c be9999 999999 faaa1e dcdc00 6b8e23 98fb98 4682b4 dc143c ff0000 00008e
    000046 003c64 005064 0000e6 770b20
    """
)

# The raw ids, of 0..33, that are classes; the others are ignored.
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

ADE20K_CLASSES = _names(
    """
    wall, building, sky, floor, tree, ceiling, road, bed , windowpane, grass, cabinet, sidewalk, person,
    earth, door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea,
    mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion,
    base, box, column, signboard, chest of drawers, counter, sand, sink, skyscraper, fireplace,
    refrigerator, grandstand, path, stairs, runway, case, pool table, pillow, screen door, stairway,
    river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench, countertop, stove,
    palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel, light,
    truck, tower, chandelier, awning, streetlight, booth, television receiver, airplane, dirt track,
    apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship,
    fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall,
    tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal,
    bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray,
    ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag
    """
)
ADE20K_PALETTE = _colours(
    """
    787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07 e005ff ebff07 96053d 787846
    08ff33 ff0652 8fff8c ccff04 ff3307 cc4603 0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0 0907e6 dcdcdc
    ff095c 7009ff 08ffd6 07ffe0 ffb806 0aff47 ff290a 07ffff e0ff08 6608ff ff3d06 ffc207 ff7a08 00ff14
    ff0829 ff0599 0633ff eb0cff a09614 00a3ff 8c8c8c fa0a0f 14ff00 1fff00 ff1f00 ffe000 99ff00 0000ff
    ff4700 00ebff 00adff 1f00ff 0bc8c8 ff5200 00fff5 003dff 00ff70 00ff85 ff0000 ffa300 ff6600 c2ff00
    008fff 33ff00 0052ff 00ff29 00ffad 0a00ff adff00 00ff99 ff5c00 ff00ff ff00f5 ff0066 ffad00 ff0014
    ffb8b8 001fff 00ff3d 0047ff ff00cc 00ffc2 00ff52 000aff 0070ff 3300ff 00c2ff 007aff 00ffa3 ff9900
    00ff0a ff7000 8fff00 5200ff a3ff00 ffeb00 08b8aa 8500ff 00ff5c b800ff ff001f 00b8ff 00d6ff ff0070
    5cff00 00e0ff 70e0ff 46b8a0 a300ff 9900ff 47ff00 ff00a3 ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff
    ff007a fff500 0abed4 d6ff00 00ccff 1400ff ffff00 0099ff 0029ff 00ffcc 2900ff 29ff00 ad00ff 00f5ff
    4700ff 7a00ff 00ffb8 005cff b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff
    """
)

VOC_CLASSES = _names(
    """
    background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog,
    horse, motorbike, person, pottedplant, sheep, sofa, train, tvmonitor
    """
)
VOC_PALETTE = _colours(
    """
    000000 800000 008000 808000 000080 800080 008080 808080 400000 c00000 408000 c08000 400080 c00080
    408080 c08080 004000 804000 00c000 80c000 004080
    """
)

CONTEXT_59_CLASSES = _names(
    """
    aeroplane, bag, bed, bedclothes, bench, bicycle, bird, boat, book, bottle, building, bus, cabinet,
    car, cat, ceiling, chair, cloth, computer, cow, cup, curtain, dog, door, fence, floor, flower, food,
    grass, ground, horse, keyboard, light, motorbike, mountain, mouse, person, plate, platform,
    pottedplant, road, rock, sheep, shelves, sidewalk, sign, sky, snow, sofa, table, track, train, tree,
    truck, tvmonitor, wall, water, window, wood
    """
)
# The classes' numbers among the 459 categories of Pascal Context's annotations.
CONTEXT_59_IDS = (
    *(2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158),
    *(159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366),
    *(368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458),
)
CONTEXT_59_PALETTE = ADE20K_PALETTE[
    1:60
]  # mmsegmentation takes ADE20K's first 60 colours; the first is the background's

COCO_STUFF_CLASSES = _names(
    """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant,
    stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe,
    backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite,
    baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork,
    knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake,
    chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard,
    cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear,
    hair drier, toothbrush, banner, blanket, branch, bridge, building-other, bush, cabinet, cage,
    cardboard, carpet, ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain,
    desk-stuff, dirt, door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood,
    flower, fog, food-other, fruit, furniture-other, grass, gravel, ground-other, hill, house, leaves,
    light, mat, metal, mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, pillow,
    plant-other, plastic, platform, playingfield, railing, railroad, river, road, rock, roof, rug,
    salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, straw,
    structural-other, table, tent, textile-other, towel, tree, vegetable, wall-brick, wall-concrete,
    wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other, waterdrops, window-blind,
    window-other, wood
    """
)
COCO_STUFF_PALETTE = _colours(
    """
    00c040 00c040 004060 80c0c0 004040 00c0e0 00c0c0 80c040 00c060 80c040 8020c0 0000e0 000040 00a0c0
    800060 8000c0 0020c0 8080e0 0000c0 80a0c0 808000 800020 802000 800080 408020 00a000 000000 c080a0
    002000 008080 4080a0 80a000 008000 c08020 806080 000080 400020 00e080 800000 c000a0 006080 808080
    4000a0 80e080 808040 c00020 806000 8000c0 008020 40e000 000040 8080a0 406000 0080c0 0080a0 c0e000
    008040 808020 c02080 0040c0 000020 40a080 804040 8000a0 402080 80c0c0 0000a0 c0a080 80c000 800060
    c02000 804080 408060 40a000 004000 c080e0 402000 00c080 4080e0 c0a000 00c000 c08060 c06080 004080
    400060 40e080 804000 c000e0 406080 80c080 4000e0 c0e080 80c040 c00060 c06000 8040c0 008060 00e000
    404040 8080e0 006000 40c0c0 0080e0 80e000 40c040 808060 802080 4000c0 004060 00a080 c00040 8040e0
    002080 c080c0 0040e0 80a080 c08000 804020 802040 c00080 40c020 00a040 400000 c0c0a0 002040 408080
    40c0a0 80a040 408000 c0c020 8060c0 400080 404020 00e0c0 c00000 c040a0 0060c0 c08080 4040a0 80e0c0
    c08040 c04020 806040 c000c0 00c020 40e040 400040 80c0a0 406040 4080c0 00c0a0 c0e040 408040 80c020
    c020c0 4040c0 004020 40a0c0 c04040 8040a0 4020c0 c0c0c0 0040a0 c0a0c0 c0c000 804060 c02040 c04080
    40c060 40a040 404000
    """
)

# The raw ids, of 0..181, that are classes: COCO planned eleven further classes of objects, but did not release them.
COCO_STUFF_IDS = tuple(raw for raw in range(182) if raw not in {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90})

LOVEDA_CLASSES = _names(
    """
    background, building, road, water, barren, forest, agricultural
    """
)
LOVEDA_PALETTE = _colours(
    """
    ffffff ff0000 ffff00 0000ff 9f81b7 00ff00 ffc380
    """
)

# Potsdam and Vaihingen are the two cities of one benchmark.
ISPRS_CLASSES = _names(
    """
    impervious_surface, building, low_vegetation, tree, car, clutter
    """
)
ISPRS_PALETTE = _colours(
    """
    ffffff 0000ff 00ffff 00ff00 ffff00 ff0000
    """
)

# The tiles of each split of the two cities, as mmsegmentation divides them.
POTSDAM_TILES = {
    "train": """2_10 2_11 2_12 3_10 3_11 3_12 4_10 4_11 4_12 5_10 5_11 5_12 6_7 6_8 6_9 6_10 6_11 6_12
        7_7 7_8 7_9 7_10 7_11 7_12""".split(),
    "val": "2_13 2_14 3_13 3_14 4_13 4_14 4_15 5_13 5_14 5_15 6_13 6_14 6_15 7_13".split(),
}
VAIHINGEN_TILES = {
    "train": [f"area{i}" for i in (1, 3, 5, 7, 11, 13, 15, 17, 21, 23, 26, 28, 30, 32, 34, 37)],
    "val": [f"area{i}" for i in (2, 4, 6, 8, 10, 12, 14, 16, 20, 22, 24, 27, 29, 31, 33, 35, 38)],
}

ISAID_CLASSES = _names(
    """
    background, ship, store_tank, baseball_diamond, tennis_court, basketball_court, Ground_Track_Field,
    Bridge, Large_Vehicle, Small_Vehicle, Helicopter, Swimming_pool, Roundabout, Soccer_ball_field,
    plane, Harbor
    """
)
ISAID_PALETTE = _colours(
    """
    000000 00003f 003f3f 003f00 003f7f 003fbf 003fff 007f3f 007f7f 00007f 0000bf 0000ff 00bf7f 007fbf
    007fff 00649b
    """
)

# Mapillary Vistas 1.2 has 66 labels; the last, "Unlabeled", is ignored.
MAPILLARY_CLASSES = _names(
    """
    Bird, Ground Animal, Curb, Fence, Guard Rail, Barrier, Wall, Bike Lane, Crosswalk - Plain, Curb Cut,
    Parking, Pedestrian Area, Rail Track, Road, Service Lane, Sidewalk, Bridge, Building, Tunnel,
    Person, Bicyclist, Motorcyclist, Other Rider, Lane Marking - Crosswalk, Lane Marking - General,
    Mountain, Sand, Sky, Snow, Terrain, Vegetation, Water, Banner, Bench, Bike Rack, Billboard,
    Catch Basin, CCTV Camera, Fire Hydrant, Junction Box, Mailbox, Manhole, Phone Booth, Pothole,
    Street Light, Pole, Traffic Sign Frame, Utility Pole, Traffic Light, Traffic Sign (Back),
    Traffic Sign (Front), Trash Can, Bicycle, Boat, Bus, Car, Caravan, Motorcycle, On Rails,
    Other Vehicle, Trailer, Truck, Wheeled Slow, Car Mount, Ego Vehicle
    """
)
MAPILLARY_PALETTE = _colours(
    """
    a52a2a 00c000 c4c4c4 be9999 b4a5b4 5a7896 66669c 8040ff 8c8cc8 aaaaaa faaaa0 606060 e6968c 804080
    6e6e6e f423e8 966464 464646 96785a dc143c ff0000 ff0064 ff00c8 c88080 ffffff 40aa40 e6a032 4682b4
    beffff 98fb98 6b8e23 00aa1e ffff80 fa001e 648cb4 dcdcdc dc8080 de2828 64aa1e 282828 212121 6480a0
    8e0000 466496 d2aa64 999999 808080 000050 faaa1e c0c0c0 dcdc00 8c8c14 770b20 9600ff 003c64 00008e
    00005a 0000e6 005064 804040 00006e 000046 0000c0 202020 780a0a
    """
)

_ISPRS = "Research benchmark of the ISPRS, https://www.isprs.org/education/benchmarks/UrbanSemLab/"
_CONTEXT = (
    "The images are Pascal VOC 2010's, from Flickr, under Flickr's terms of use: "
    "https://cs.stanford.edu/~roozbeh/pascal-context/"
)
_COCO_STUFF = "Annotations CC BY 4.0; the images, from Flickr, under Flickr's terms of use"

DATASETS = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            name="cityscapes",
            title="Cityscapes",
            classes=CITYSCAPES_CLASSES,
            palette=CITYSCAPES_PALETTE,
            reduce_zero_label=False,
            licence="Non-commercial use only, after registration: https://www.cityscapes-dataset.com/license/",
            splits=_splits(2975, 500),
            raw_ids=CITYSCAPES_IDS,
            ignored_ids=tuple(raw for raw in range(34) if raw not in CITYSCAPES_IDS),
        ),
        Dataset(
            name="ade20k",
            title="ADE20K",
            classes=ADE20K_CLASSES,
            palette=ADE20K_PALETTE,
            reduce_zero_label=True,
            licence="Images for non-commercial research and education, annotations BSD-3-Clause: "
            "https://groups.csail.mit.edu/vision/datasets/ADE20K/",
            splits=_splits(20210, 2000),
        ),
        Dataset(
            name="voc12aug",
            title="Pascal VOC 2012 + Aug",
            classes=VOC_CLASSES,
            palette=VOC_PALETTE,
            reduce_zero_label=False,
            licence="The images, from Flickr, under Flickr's terms of use: "
            "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/; Aug is SBD's masks of VOC 2011 images",
            splits=_splits({"VOC 2012": 1464, "SBD": 9118}, 1449),
        ),
        Dataset(
            name="pascal_context",
            title="Pascal Context",
            classes=("background", *CONTEXT_59_CLASSES),
            palette=ADE20K_PALETTE[:60],
            reduce_zero_label=False,
            licence=_CONTEXT,
            splits=_splits(4998, 5105),
            raw_ids=(0, *CONTEXT_59_IDS),
            ignored_ids=(),
        ),
        Dataset(
            name="pascal_context_59",
            title="Pascal Context 59",
            classes=CONTEXT_59_CLASSES,
            palette=CONTEXT_59_PALETTE,
            reduce_zero_label=True,
            licence=_CONTEXT,
            splits=_splits(4998, 5105),
            raw_ids=CONTEXT_59_IDS,
            ignored_ids=(),
        ),
        Dataset(
            name="coco_stuff10k",
            title="COCO-Stuff 10k",
            classes=COCO_STUFF_CLASSES,
            palette=COCO_STUFF_PALETTE,
            reduce_zero_label=True,
            licence=f"{_COCO_STUFF}: https://github.com/nightrome/cocostuff10k",
            splits=_splits(9000, 1000),
            raw_ids=tuple(raw + 1 for raw in COCO_STUFF_IDS),
        ),
        Dataset(
            name="coco_stuff164k",
            title="COCO-Stuff 164k",
            classes=COCO_STUFF_CLASSES,
            palette=COCO_STUFF_PALETTE,
            reduce_zero_label=False,
            licence=f"{_COCO_STUFF}: https://github.com/nightrome/cocostuff",
            splits=_splits(118287, 5000),
            raw_ids=COCO_STUFF_IDS,
        ),
        Dataset(
            name="loveda",
            title="LoveDA",
            classes=LOVEDA_CLASSES,
            palette=LOVEDA_PALETTE,
            reduce_zero_label=True,
            licence="CC BY-NC-SA 4.0, academic use only; images under Google Earth's terms: "
            "https://github.com/Junjue-Wang/LoveDA",
            splits=_splits({"urban": 1156, "rural": 1366}, {"urban": 677, "rural": 992}),
        ),
        Dataset(
            name="potsdam",
            title="Potsdam",
            classes=ISPRS_CLASSES,
            palette=ISPRS_PALETTE,
            reduce_zero_label=True,
            licence=_ISPRS,
            splits=_splits(24, 14, tiles=(3456, 2016)),
            colour_labels=True,
        ),
        Dataset(
            name="vaihingen",
            title="Vaihingen",
            classes=ISPRS_CLASSES,
            palette=ISPRS_PALETTE,
            reduce_zero_label=True,
            licence=f"{_ISPRS}; data provided by the DGPF, to be acknowledged",
            splits=_splits(16, 17, tiles=(344, 398)),
            colour_labels=True,
        ),
        Dataset(
            name="isaid",
            title="iSAID",
            classes=ISAID_CLASSES,
            palette=ISAID_PALETTE,
            reduce_zero_label=False,
            licence="Academic use only; the images are DOTA's, mostly under Google Earth's terms: "
            "https://captain-whu.github.io/iSAID/",
            splits=_splits(1411, 458, tiles=(33978, 11644)),
            colour_labels=True,
            stray_colour=0,
        ),
        Dataset(
            name="mapillary",
            title="Mapillary Vistas v1.2",
            classes=MAPILLARY_CLASSES,
            palette=MAPILLARY_PALETTE,
            reduce_zero_label=False,
            licence="CC BY-NC-SA (research edition): https://www.mapillary.com/dataset/vistas",
            splits=_splits(18000, 2000),
            ignored_ids=(65, IGNORE),
        ),
    )
}

COCO_VOC = Dataset(
    name="coco_voc",
    title="COCO 2017 with VOC's classes",
    classes=VOC_CLASSES,
    palette=VOC_PALETTE,
    reduce_zero_label=False,
    licence="The annotations under CC BY 4.0, the images, from Flickr, under Flickr's terms of use: "
    "https://cocodataset.org/#termsofuse",
)
# The data sets of all rows. Those of `DATASETS` can be prepared from their official download.
TRAINED_ON = DATASETS | {COCO_VOC.name: COCO_VOC}
