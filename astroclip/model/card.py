"""The model card, ``README.md`` of a model directory: what a model is, its origin, its use, what to cite."""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import yaml

from astroclip.config import ModelConfig
from astroclip.schema import VERSION


def make_card(config: ModelConfig, parts: Counter[str], source: str, notes: str) -> str:
    """Return a model card.

    Parameters
    ----------
    config
        The model's settings.
    parts
        Number of parameters by part, as ``{"image_encoder.backbone": 302954496}``.
    source
        Where the weights are from, in a few words; `read_source` finds it again.
    notes
        A paragraph on how they came to be.
    """
    front = {"library_name": "astroclip", "tags": ["astronomy", "galaxies"], "source": source}
    verbs = {"image": "embed_images(cutouts)  # (N, 3, 152, 152) g, r, z nanomaggies"}
    verbs["spectrum"] = "embed_spectra(flux, ivar)  # (N, 7781) on DESI's grid"
    calls = [f"vectors = model.{call}" for name, call in verbs.items() if getattr(config, name) is not None]
    return f"""---
{yaml.safe_dump(front, sort_keys=False)}---

# {config.name}

{notes}

Written by astroclip {VERSION} on {datetime.now(UTC).date().isoformat()}.

## Sizes

{sum(parts.values()):,} parameters: {", ".join(f"{name} {count:,}" for name, count in parts.items())}.

```yaml
{yaml.safe_dump(config.model_dump(exclude_none=True), sort_keys=False)}```

## Use

```sh
astroclip embed CATALOG.fits --model THIS_DIRECTORY
```

```python
import astroclip

model = astroclip.load_model("THIS_DIRECTORY")
{chr(10).join(calls)}
```

## Licence and citation

Published weights keep the licence of their origin. If you use the model, please cite Parker et al. 2024,
*AstroCLIP: a cross-modal foundation model for galaxies*, MNRAS 531, 4990.
"""


def read_source(card: Path) -> str:
    """Return the source that the front matter of a model card names, or nothing."""
    try:
        front = yaml.safe_load(card.read_text(encoding="utf-8").split("---")[1])
    except (OSError, UnicodeDecodeError, IndexError, yaml.YAMLError):
        return ""
    return str(front.get("source", "")) if isinstance(front, dict) else ""
