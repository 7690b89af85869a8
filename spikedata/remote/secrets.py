"""Keys and tokens taken out of text before anybody sees it."""

import os
import re

_OWNERS = ("AWS_", "AZURE_", "GOOGLE_", "GCS_", "GCP_", "HF_", "HUGGING")
_NAMED_SECRET = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|SAS|CREDENTIAL|CONNECTION_STRING")
_LEAST_LETTERS = 6
"""Of a secret: what is shorter is none, and would blot out parts of words."""

_LOOKS_SECRET = re.compile(
    r"\b(?:AKIA|ASIA)[0-9A-Z]{12,}"  # access key ids of AWS
    r"|\bhf_[A-Za-z0-9]{16,}"  # tokens of the Hub
    r"|(?<=://)[^/\s@]+(?=@)"  # what stands before the host of an address
    r"|(?<=earer )[^\s,;]+"
    r"|(?i:(?<=signature=)|(?<=credential=)|(?<=security-token=)|(?<=sig=))[^&\s,;'\"]+"
)


def without_secrets(text: str) -> str:
    """Text in which secrets of this process's environment, and what looks like one, are ``***``."""
    for secret in sorted(_known(), key=len, reverse=True):
        text = text.replace(secret, "***")
    return _LOOKS_SECRET.sub("***", text)


def _known() -> set[str]:
    """Values of variables that cloud providers and the Hub read secrets from."""
    return {
        value
        for name, value in os.environ.items()
        if name.startswith(_OWNERS)
        and _NAMED_SECRET.search(name)
        and len(value) >= _LEAST_LETTERS
        and not os.path.exists(value)  # where a file of credentials lies is no secret
    }
