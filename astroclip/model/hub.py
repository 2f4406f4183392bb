"""Models by name: the one that ships, the published ones on the Hugging Face hub, and directories.

`mini` lies beside this file, a model directory with its own reference set.
A fetched model lives in ``<cache>/<org>--<repo>@<commit>``, a model directory; ``<org>--<repo>@<revision>``
is a small file with the commit that a branch or tag was when it was last fetched. The cache is
``$ASTROCLIP_CACHE/models``, by default ``~/.cache/astroclip/model``. ``HF_ENDPOINT``, ``HF_HUB_OFFLINE``,
``HF_TOKEN`` and ``HF_HOME`` are honoured: a file that huggingface_hub's own cache holds is not fetched again.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from astroclip.config import cache_folder
from astroclip.errors import AstroclipError, CheckpointError, UsageError
from astroclip.model.checkpoint import (
    CARD,
    CONFIG,
    WEIGHTS,
    ModelInfo,
    convert_checkpoint,
    is_model_directory,
    read_info,
)


class KnownModel(NamedTuple):
    """A published model, by what the code release says of it."""

    repo: str
    file: str
    modality: str
    width: int
    parameters: int


KNOWN = {
    "astroclip": KnownModel(
        "polymathic-ai/astroclip", "astroclip.ckpt", "image, spectrum", 1024, 370_798_358
    ),
    "astrodino": KnownModel("polymathic-ai/astrodino", "astrodino.ckpt", "image", 1024, 302_954_496),
    "specformer": KnownModel("polymathic-ai/specformer", "specformer.ckpt", "spectrum", 768, 43_177_750),
}
SHIPPED = "mini"
_FILES = {known.repo: known.file for known in KNOWN.values()}
_NAME = re.compile(r"(?P<repo>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class _RepoFile(NamedTuple):
    """A file of a repository at a commit, with every checksum that the hub gives for it."""

    repo: str
    commit: str
    name: str
    checksums: set[str]


def pull_model(name: str, cache: Path | None = None, offline: bool = False) -> Path:
    """Fetch a model from the Hugging Face hub, verify it, and convert it on arrival if it is a pickle.

    What was fetched before is not fetched again; an interrupted download goes on where it stopped.

    Parameters
    ----------
    name
        ``astroclip``, ``astrodino``, ``specformer`` or ``org/repo``, each with ``@revision`` if wanted;
        ``mini`` is here already. A repository holds a model directory of ours, or one checkpoint in a
        published layout.
    cache
        Where models are kept; default as the module says.
    offline
        Use no network. So does ``HF_HUB_OFFLINE=1``.

    Returns
    -------
    Path
        The model directory.

    Raises
    ------
    UsageError
        If `name` is not a name.
    CheckpointError
        If the repository or revision does not exist or needs a token, if the network or the model is not
        there, if a checksum is wrong (the download is removed), or if the checkpoint cannot be converted.
    """
    from huggingface_hub import constants

    if name == SHIPPED:
        return find_model(name)
    parsed = _parse(name)
    if parsed is None:
        raise UsageError(
            f"'{name}': not a model's name; expected {', '.join(KNOWN)} or org/repo, then @revision"
        )
    repo, revision = parsed
    cache = cache or cache_folder("models")
    if offline or constants.HF_HUB_OFFLINE:
        found = _find_pulled(cache, repo, revision) or _convert_cached(cache, repo, revision)
        if found is None:
            raise CheckpointError(
                f"{repo}@{revision}: not in {cache}, and no network is to be used. "
                f"Fetch it where there is one: astroclip models pull {name}"
            )
        return found
    with _explained(repo, revision):
        files = _list_files(repo, revision)
        target = _place(cache, repo, files[0].commit)
        if not is_model_directory(target):
            _fetch(files, target)
    if revision != files[0].commit:
        _place(cache, repo, revision).write_text(files[0].commit, encoding="utf-8")
    return target


def find_model(name_or_dir: str | Path) -> Path:
    """Return the directory of a model: a model directory itself, or the name of one that ships or was pulled.

    Raises
    ------
    CheckpointError
        If there is no such model; it says what there is and how to get one.
    """
    directory = Path(name_or_dir)
    if is_model_directory(directory):
        return directory
    if str(name_or_dir) == SHIPPED:
        return Path(__file__).with_name(SHIPPED)
    parsed = _parse(str(name_or_dir))
    found = _find_pulled(cache_folder("models"), *parsed) if parsed else None
    if found is not None:
        return found
    if directory.is_dir() and str(name_or_dir) not in KNOWN:
        lacking = " and ".join(name for name in (WEIGHTS, CONFIG) if not (directory / name).is_file())
        raise CheckpointError(f"{directory}: no model directory, it lacks {lacking}")
    if directory.is_file():
        raise CheckpointError(f"{directory}: a file; convert it: astroclip models convert {directory} -o DIR")
    here = ", ".join(path.name for path in _pulled(cache_folder("models"))) or "none"
    raise CheckpointError(
        f"no model '{name_or_dir}': neither a model directory nor one that was pulled (here: {here}). "
        f"Get one: astroclip models pull {'|'.join(KNOWN)}, or take the small one that ships: {SHIPPED}"
    )


def list_models(cache: Path | None = None) -> list[ModelInfo]:
    """List what ships, what was pulled, then the published models that were not (their `path` is None)."""
    cache = cache or cache_folder("models")
    models = [read_info(find_model(SHIPPED))]
    for directory in _pulled(cache):
        try:
            models.append(read_info(directory))
        except AstroclipError as error:
            models.append(ModelInfo(directory.name, "", 0, 0, f"unusable: {error}", directory))
    for name, known in KNOWN.items():
        if not any(model.path and model.path.name.startswith(_slug(known.repo) + "@") for model in models):
            models.append(ModelInfo(name, known.modality, known.width, known.parameters, known.repo, None))
    return models


def _parse(name: str) -> tuple[str, str] | None:
    """Split ``name[@revision]`` into repository and revision, if it can be one."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    repo = KNOWN[match["repo"]].repo if match["repo"] in KNOWN else match["repo"]
    return (repo, match["revision"] or "main") if "/" in repo else None


def _endpoint() -> str | None:
    """Return ``HF_ENDPOINT`` as it is now; huggingface_hub reads it once, when imported."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


def _slug(repo: str) -> str:
    return repo.replace("/", "--")


def _place(cache: Path, repo: str, revision: str) -> Path:
    """Return where a commit is kept (a directory), or what is known of a branch or tag (a file)."""
    return cache / f"{_slug(repo)}@{revision.replace('/', '--')}"


def _pulled(cache: Path) -> list[Path]:
    return sorted(path for path in cache.glob("[!.]*@*") if is_model_directory(path))


def _find_pulled(cache: Path, repo: str, revision: str) -> Path | None:
    """Return the directory of a model that was pulled before."""
    place = _place(cache, repo, revision)
    if place.is_file():
        place = _place(cache, repo, place.read_text(encoding="utf-8").strip())
    return place if is_model_directory(place) else None


def _convert_cached(cache: Path, repo: str, revision: str) -> Path | None:
    """Convert a published checkpoint that huggingface_hub's own cache holds."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(repo, _FILES.get(repo, "none"), revision=revision)
    if not isinstance(path, str):
        return None
    blob, commit = (
        Path(path).resolve(),
        Path(path).parent.name,
    )  # .../snapshots/<commit>/<file> -> blobs/<sha256>
    _verify(blob, _RepoFile(repo, commit, blob.name, {blob.name}))
    target = _place(cache, repo, commit)
    convert_checkpoint(path, target, source=f"{repo}@{commit}")
    return target


def _list_files(repo: str, revision: str) -> list[_RepoFile]:
    """Ask the hub which files make the model: a model directory of ours, else the one checkpoint."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=_endpoint())
    info = api.model_info(repo, revision=revision, files_metadata=True)
    if not (info.sha and _COMMIT.fullmatch(info.sha)):
        raise CheckpointError(
            f"{repo}@{revision}: the hub does not say which commit this is; check HF_ENDPOINT"
        )
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
    checkpoints = [name for name in siblings if re.fullmatch(r"[\w.-]+\.ckpt", name)]
    if {WEIGHTS, CONFIG} <= siblings.keys():
        wanted = [name for name in (CONFIG, CARD, WEIGHTS) if name in siblings]
    elif _FILES.get(repo) in checkpoints:
        wanted = [_FILES[repo]]
    elif len(checkpoints) == 1:
        wanted = checkpoints
    else:
        raise CheckpointError(
            f"{repo}@{revision}: expected {WEIGHTS} and {CONFIG}, or one .ckpt file; "
            f"found {', '.join(sorted(siblings)[:20]) or 'nothing'}"
        )
    sums = {name: {lfs.sha256} if (lfs := siblings[name].lfs) else set() for name in wanted}
    return [_RepoFile(repo, info.sha, name, sums[name]) for name in wanted]


def _fetch(files: list[_RepoFile], target: Path) -> None:
    """Download and verify the files of a model and make its directory; partial downloads wait beside it."""
    waiting = target.with_name(f".{target.name}")
    waiting.mkdir(parents=True, exist_ok=True)
    paths = [_download(file, waiting / file.name) for file in files]
    if files[0].name.endswith(".ckpt"):
        convert_checkpoint(paths[0], target, source=f"{files[0].repo}@{files[0].commit}")
        shutil.rmtree(waiting)
    else:
        for path, file in zip(paths, files, strict=True):
            if path.parent != waiting:
                shutil.copyfile(path, waiting / file.name)
        read_info(waiting)
        waiting.rename(target)


def _download(file: _RepoFile, path: Path) -> Path:
    """Return a verified file, from huggingface_hub's cache or downloaded to `path`, maybe in several goes."""
    from huggingface_hub import get_hf_file_metadata, get_token, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.file_download import http_get

    url = hf_hub_url(file.repo, file.name, revision=file.commit, endpoint=_endpoint())
    metadata = get_hf_file_metadata(url, token=get_token(), endpoint=_endpoint())
    checksums = file.checksums | ({metadata.etag} if metadata.etag else set())
    cached = try_to_load_from_cache(file.repo, file.name, revision=file.commit)
    if isinstance(cached, str):
        path = Path(cached)
    else:
        if path.exists() and metadata.size is not None and path.stat().st_size > metadata.size:
            path.unlink()
        with path.open("ab") as part:
            headers = {"authorization": f"Bearer {token}"} if (token := get_token()) else {}
            http_get(url, part, resume_size=part.tell(), headers=headers, expected_size=metadata.size)
    _verify(path, file._replace(checksums=checksums))
    return path


def _verify(path: Path, file: _RepoFile) -> None:
    """Compare a file with its checksums: SHA-256 (large files) or git's SHA-1; remove it if one is wrong."""
    known = [checksum for checksum in file.checksums if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", checksum)]
    if not known:
        raise CheckpointError(
            f"{file.repo}@{file.commit}: the hub gives no checksum of {file.name}: not used"
        )
    for checksum in known:
        sha = hashlib.sha256() if len(checksum) == 64 else hashlib.sha1(usedforsecurity=False)
        if len(checksum) == 40:
            sha.update(b"blob %d\0" % path.stat().st_size)
        with path.open("rb") as content:
            while block := content.read(1 << 20):
                sha.update(block)
        if sha.hexdigest() != checksum:
            path.resolve().unlink()
            raise CheckpointError(
                f"{file.repo}@{file.commit}: {file.name} has checksum {sha.hexdigest()}, the hub says "
                f"{checksum}. The download was removed; run the same command again"
            )


@contextmanager
def _explained(repo: str, revision: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into one error with the next step."""
    from huggingface_hub import errors

    where = f"{repo}@{revision}"
    log_in = "log in with 'hf auth login' or set HF_TOKEN"
    try:
        yield
    except errors.GatedRepoError:
        raise CheckpointError(f"{where}: gated: ask for access on its page, then {log_in}") from None
    except errors.RevisionNotFoundError:
        raise CheckpointError(f"{where}: no such revision; leave '@{revision}' out for the newest") from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(
            f"{where}: no such repository, or a private one: check its name, or {log_in}"
        ) from None
    except errors.HFValidationError as error:
        raise UsageError(f"{where}: not a repository's name ({error})") from None
    except (errors.HTTPError, OSError, ValueError) as error:  # type: ignore[attr-defined]
        # HTTPError: the HTTP library's own, whichever it is. ValueError: an answer that is not JSON.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{where}: cannot be fetched ({reason}). Run the same command again, it goes on where it "
            "stopped; --offline uses what was fetched before"
        ) from None
