"""Lists, checks and removes the downloaded weights.

keras-deeplab cache
keras-deeplab cache --check
keras-deeplab cache --clear deeplabv3plus_r101_cityscapes

The folder is that of the environment variable KERAS_DEEPLAB_CACHE, or ~/.keras/keras_deeplab. Files that were not downloaded
by this package are neither listed nor removed.
"""

from keras_deeplab.commands import command_line

ALL = "all"


def main(argv):
    arguments = command_line.parser("cache", __doc__.splitlines()[0], row=False)
    action = arguments.add_mutually_exclusive_group()
    action.add_argument("--check", action="store_true", help="compare each file with its SHA-256 at first use")
    action.add_argument(
        "--clear", metavar="NAME", nargs="+", help="remove the files of these models, files of these names, or all"
    )
    options = arguments.parse_args(argv)

    from keras_deeplab.zoo import cache

    files = cache.cached_files()
    if options.clear:
        return clear(files, options.clear)
    if not files:
        print(f"No downloaded weights in {cache.cache_dir()}.")
        return
    states = [state(one, options.check) for one in files]
    table = [("file", "MB", "state", "model")]
    for one, of_file in zip(files, states, strict=True):
        model = one.models[0] + (f" and {len(one.models) - 1} more" if one.models[1:] else "") if one.models else ""
        table.append((one.name, megabytes(one.size), of_file, model))
    command_line.print_table(table)
    print(f"\n{len(files)} files, {megabytes(sum(one.size for one in files))} MB, in {cache.cache_dir()}")
    if changed := [one.name for one, of_file in zip(files, states, strict=True) if of_file == "changed"]:
        raise ValueError(
            f"A downloaded file must be as at its first use. Received: {', '.join(changed)}, changed since. Remove it with "
            "`keras-deeplab cache --clear NAME`; the next use downloads it again."
        )


def state(one, check):
    """What is said of a `Cached`."""
    from keras_deeplab.zoo import cache

    if not one.is_whole:
        return "unfinished"
    if not check:
        return "complete"
    return "changed" if cache.has_changed(one.name) else "as at first use"


def clear(files, names):
    """Removes files, after all names are known to be right."""
    from keras_deeplab.zoo import cache

    if ALL in names[1:] or names[:-1].count(ALL):
        raise ValueError(
            f"`all` stands alone after --clear. Received: {' '.join(names)}. Leave it out, or the other names."
        )
    chosen = files if names == [ALL] else [one for name in names for one in named(files, name)]
    for one in dict.fromkeys(one.name for one in chosen):
        cache.remove(one)
        print(f"removed {one}")
    print(f"{megabytes(sum({one.name: one.size for one in chosen}.values()))} MB freed")


def named(files, name):
    """The downloaded files of one name, which is that of a file or a model.

    Raises:
        ValueError: if there is none.
    """
    from keras_deeplab.catalog import rows

    if found := [one for one in files if one.name == name]:
        return found
    row = rows.find(name)  # names the closest models if there is none
    if found := [one for one in files if row.name in one.models]:
        return found
    raise ValueError(f"The weights of {row.name} are not in the cache. Received: --clear {name}. Nothing was removed.")


def megabytes(size):
    """Bytes as text in megabytes."""
    return f"{size / 1e6:.1f}"


if __name__ == "__main__":
    command_line.run(main)
