"""PyAV, FFmpeg's libraries in process: what a file holds, its sound, and the video we write."""

import av

from pipeline.engines.pyav.read import AudioReader, decode_audio, open_media, probe
from pipeline.engines.pyav.write import (
    EncoderRefused,
    SoundCopy,
    SoundForm,
    SoundRefused,
    VideoForm,
    VideoWriter,
    can_copy,
    trial,
)

VERSION = av.__version__

__all__ = [
    "VERSION",
    "AudioReader",
    "EncoderRefused",
    "SoundCopy",
    "SoundForm",
    "SoundRefused",
    "VideoForm",
    "VideoWriter",
    "can_copy",
    "decode_audio",
    "open_media",
    "probe",
    "trial",
]
