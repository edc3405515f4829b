"""Explanations: why an item is recommended."""

from fastapi import APIRouter

router = APIRouter(prefix="/v1", tags=["explanations"])
