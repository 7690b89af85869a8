"""`spikedata serve`: a local page to look at, judge and label recordings and clips."""

from typing import Annotated

import typer

from .common import errors_in_one_line, print_notes, say, usage_errors_in_one_line
from .options import SPIKES, Camera, ClipsArgument, Flip, TickRate

Port = Annotated[
    int, typer.Option(min=0, max=65_535, help="Port of this machine; 0 is any that is free.")
]
Open = Annotated[
    bool | None,
    typer.Option("--open/--no-open", help="Open it in a browser.  [default: where there is one]"),
]
ReadOnly = Annotated[bool, typer.Option("--read-only", help="Change no label.")]


def serve(
    clips: ClipsArgument = SPIKES,
    camera: Camera = None,
    flip: Flip = None,
    tick_rate: TickRate = None,
    port: Port = 0,
    open_page: Open = None,
    read_only: ReadOnly = False,
) -> None:
    """Look at CLIPS on a page of your browser: find, play, inspect and label them.

    Recordings need no packing; of files whose camera nothing tells, the page shows what they would
    be. Labels are saved at once: in metadata.jsonl beside recordings, and in a store itself.

    The page's address is printed. It works on this machine only, until Ctrl-C, and for whoever has
    it; over ssh, forward the port: ssh -L PORT:127.0.0.1:PORT HOST.
    """
    from spikedata import ClipServer

    with errors_in_one_line():
        with usage_errors_in_one_line():
            server = ClipServer(
                clips,
                camera=camera,
                flip=flip,
                tick_rate_hz=tick_rate,
                port=port,
                read_only=read_only,
            )
        print_notes(server.notes)
        try:
            with server:
                say(server.url)
                _open_browser(server.url, open_page)
                server.wait()
        except KeyboardInterrupt:
            print_notes(["stopped; what the page said is saved is saved"])


def _open_browser(url: str, wanted: bool | None) -> None:
    """Show the page, where there is a screen; a browser of the terminal would take it over."""
    import os
    import sys
    import webbrowser

    has_screen = sys.platform in ("darwin", "win32") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    if has_screen if wanted is None else wanted:
        webbrowser.open(url)
