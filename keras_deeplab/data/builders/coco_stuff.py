"""COCO-Stuff (Caesar et al. 2018), the 10k and the 164k release: 182 raw ids of things and stuff to 171 train ids."""

from keras_deeplab.catalog.datasets import DATASETS
from keras_deeplab.data.builders import labels, matlab
from keras_deeplab.data.builders.base import Builder


class CocoStuff10k(Builder, skip_registration=True):
    name = "coco_stuff10k"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    cocostuff-10k-v1.1.zip from
    http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/cocostuff-10k-v1.1.zip, as it is or unpacked.
    """
    image = "images/{name}.jpg"
    label = "annotations/{name}.mat"
    places = {"train": {"all": "train"}, "val": {"all": "test"}}

    def pictures(self, files):
        return {
            split: self.paired(files, "all", files.lines(f"imageLists/{parts['all']}.txt"))
            for split, parts in self.places.items()
        }

    @classmethod
    def label_map(cls, picture):
        values = matlab.array(picture.label, "S")
        return labels.train_ids(values, DATASETS[cls.name].label_ids, picture.label)


class CocoStuff164k(Builder, skip_registration=True):
    name = "coco_stuff164k"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    train2017.zip and val2017.zip from http://images.cocodataset.org/zips/, and stuffthingmaps_trainval2017.zip from
    http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/, as they are or unpacked.
    """
    image = "{place}/{name}.jpg"
    label = "{place}/{name=[^/_]+}.png"  # no underscore: mmsegmentation's converter writes NAME_labelTrainIds.png there
    places = {"train": {"all": "train2017"}, "val": {"all": "val2017"}}
