"""Checks an image made by image/build.sh: every digest and size is right, both indexes name the same blobs.

    image.py FILE.tar NAME:TAG
"""

import hashlib
import io
import json
import sys
import tarfile


def main(path, tag):
    with tarfile.open(path) as archive:
        files = {entry.name: archive.extractfile(entry).read() for entry in archive if entry.isfile()}
    blobs = {name: data for name, data in files.items() if name.startswith("blobs/sha256/")}
    for name, data in blobs.items():
        assert hashlib.sha256(data).hexdigest() == name.rsplit("/", 1)[1], name

    def blob(descriptor):
        name = "blobs/" + descriptor["digest"].replace(":", "/")
        assert len(blobs[name]) == descriptor["size"], name
        return name, blobs[name]

    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    (entry,) = json.loads(files["index.json"])["manifests"]
    assert entry["annotations"]["io.containerd.image.name"] == tag
    manifest = json.loads(blob(entry)[1])
    config_name, config = blob(manifest["config"])
    (layer_name, layer), = [blob(descriptor) for descriptor in manifest["layers"]]
    config = json.loads(config)
    assert config["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(layer).hexdigest()]
    assert config["config"]["User"] == "65534:65534"
    docker = json.loads(files["manifest.json"])
    assert docker == [{"Config": config_name, "RepoTags": [tag], "Layers": [layer_name]}]

    with tarfile.open(fileobj=io.BytesIO(layer)) as root:
        entries = {entry.name: entry for entry in root}
    (program,) = config["config"]["Entrypoint"]
    assert entries[program.lstrip("/")].mode == 0o755
    assert [name for name, entry in entries.items() if entry.isfile()] == [program.lstrip("/")]
    assert all((entry.uid, entry.gid, entry.mtime) == (0, 0, 0) for entry in entries.values())
    assert entry["platform"]["architecture"] == config["architecture"]


main(*sys.argv[1:])
