"""`python -m keras_deeplab VERB ...` is `keras-deeplab VERB ...`."""

from keras_deeplab.commands import main

main()
