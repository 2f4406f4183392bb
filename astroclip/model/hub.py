"""Models by name: the one that ships, the published ones on the Hugging Face hub, and directories.

`mini` lies beside this file, a model directory with its own reference set.
A fetched model lives in ``<cache>/<org>--<repo>@<commit>``, a model directory; ``<org>--<repo>@<revision>``
is a small file with the commit that a branch or tag was when it was last fetched. The cache is
``$ASTROCLIP_CACHE/models``, by default ``~/.cache/astroclip/models``. ``HF_ENDPOINT``, ``HF_HUB_OFFLINE``,
``HF_TOKEN`` and ``HF_HOME`` are honoured: a file that huggingface_hub's own cache holds is not fetched again.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from astroclip.errors import AstroclipError, CheckpointError, UsageError
from astroclip.files import cache_folder
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
REFERENCE = "reference.safetensors"  # labels and embeddings that a model may come with


def pull_model(name: str, cache: Path | None = None, offline: bool = False) -> Path:
    """Fetch a model from the Hugging Face hub, verify it, and convert it on arrival if it is a pickle.

    What was fetched before is not fetched again; a connection that breaks is taken up where it broke.

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
    from huggingface_hub import is_offline_mode

    if name == SHIPPED:
        return find_model(name)
    parsed = _parse(name)
    if parsed is None:
        raise UsageError(
            f"'{name}': not a model's name; expected {', '.join(KNOWN)} or org/repo, then @revision"
        )
    repo, revision = parsed
    cache = cache or cache_folder("models")
    if offline or is_offline_mode():
        found = _find_pulled(cache, repo, revision)
        if found is None:
            raise CheckpointError(
                f"{repo}@{revision}: not in {cache}, and no network is to be used. "
                f"Fetch it where there is one: astroclip models pull {name}"
            )
        return found
    with _explained(repo, revision):
        commit, files = _list_files(repo, revision)
        target = _place(cache, repo, commit)
        if not is_model_directory(target):
            _fetch(repo, commit, files, target)
    if revision != commit:
        _place(cache, repo, revision).write_text(commit, encoding="utf-8")
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


def _list_files(repo: str, revision: str) -> tuple[str, list[str]]:
    """Return the commit, and the files that make the model: a directory of ours, else the one checkpoint."""
    from huggingface_hub import HfApi

    info = HfApi(endpoint=_endpoint()).model_info(repo, revision=revision)
    there = {sibling.rfilename for sibling in info.siblings or []}
    checkpoints = [name for name in there if re.fullmatch(r"[\w.-]+\.ckpt", name)]
    if not info.sha:
        raise CheckpointError(
            f"{repo}@{revision}: the hub does not say which commit this is; check HF_ENDPOINT"
        )
    if {WEIGHTS, CONFIG} <= there:
        return info.sha, [name for name in (CONFIG, CARD, WEIGHTS, REFERENCE) if name in there]
    if _FILES.get(repo) in checkpoints:
        return info.sha, [_FILES[repo]]
    if len(checkpoints) != 1:
        raise CheckpointError(
            f"{repo}@{revision}: expected {WEIGHTS} and {CONFIG}, or one .ckpt file; "
            f"found {', '.join(sorted(there)[:20]) or 'nothing'}"
        )
    return info.sha, checkpoints


def _fetch(repo: str, commit: str, files: list[str], target: Path) -> None:
    """Download and verify the files of a model and make its directory; partial downloads wait beside it."""
    from huggingface_hub import HfApi, snapshot_download

    waiting, endpoint = target.with_name(f".{target.name}"), _endpoint()
    api = HfApi(endpoint=endpoint)
    for again in (False, True):  # what was wrong may be a damaged file of huggingface_hub's own cache
        snapshot_download(
            repo, revision=commit, local_dir=waiting, allow_patterns=files, endpoint=endpoint,
            force_download=again,
        )  # fmt: skip
        wrong = api.verify_repo_checksums(repo, revision=commit, local_dir=waiting).mismatches
        if not wrong:
            break
    else:
        shutil.rmtree(waiting)
        raise CheckpointError(
            f"{repo}@{commit}: {wrong[0]['path']} has checksum {wrong[0]['actual']}, the hub says "
            f"{wrong[0]['expected']}. The download was removed; run the same command again"
        )
    if files[0].endswith(".ckpt"):
        convert_checkpoint(waiting / files[0], target, source=f"{repo}@{commit}")
        shutil.rmtree(waiting)
    else:
        read_info(waiting)
        shutil.rmtree(waiting / ".cache")  # huggingface_hub's notes on the download
        waiting.rename(target)


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
            f"{where}: cannot be fetched ({reason}). Run the same command again: what is complete is "
            "not fetched again; --offline uses what was fetched before"
        ) from None
