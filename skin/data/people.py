"""Columns that tell whose an image is, by their names."""

from __future__ import annotations

import re

_BETWEEN = re.compile(r"[\W_]+")
_SIGN_OF_NUMBER = re.compile("n[°º]")
_WHO = r"(pati[eë]nt(e|in|en|s|es)?|paciente?s?|pazient[ei]|pacjent|subject|participant|proband|person)"
_NUMBER = r"(u?u?id|no|nr|num(ber|mer|ero)?|name|code|key|hash|identifier|pseudonym)"
_PATIENT = re.compile(
    rf"(anon(ymi[sz]ed|ymous)?|hashed|deidentified|study)?({_WHO}{_NUMBER}?|pa?t{_NUMBER}|id(del?)?{_WHO})|pid|mrn"
)


def is_patient(name: str) -> bool:
    """Return True if a column is by its name one of patients: `patient_id`, `Patient No.`, `PatientenNr`, `pid`."""
    plain = _SIGN_OF_NUMBER.sub("id", name.casefold())
    return _PATIENT.fullmatch(_BETWEEN.sub("", plain)) is not None
