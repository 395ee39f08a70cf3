"""What travels on MODEL, CLIP and VAE sockets here, and what nodes may ask of it: one face for each
kind of host, named by the host itself (`ComfyHost.sockets`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..host import get_host
from .clip import KontextClip
from .model import KontextModel, require_model
from .vae import KontextVAE, VaeCalls

if TYPE_CHECKING:
    from ...kontext_core.models.autoencoder import AutoEncoder
    from ...kontext_core.models.flux import Flux
    from ...kontext_core.models.text import TextEncoder
    from ...kontext_core.text.pair import FluxTextEncoders


class Sockets:
    """Outside a real ComfyUI: kinds of our own, understood by the pack's nodes."""

    # Whether MODELs of FLUX.1 that others have loaded come along too.
    foreign = False

    def model(self, flux: Flux, name: str) -> Any:
        """See `make_model`."""
        return KontextModel(flux, name)

    def clip(self, encoder: TextEncoder | FluxTextEncoders, name: str) -> Any:
        """See `make_clip`."""
        return KontextClip(encoder, name)

    def vae(
        self, autoencoder: AutoEncoder, name: str, resolutions: tuple[tuple[int, int], ...]
    ) -> VaeCalls:
        """See `make_vae`."""
        return KontextVAE(autoencoder, name, resolutions)

    def require_model(self, model: Any) -> Any:
        """Return `model` if the host's sampler can run it.

        Raises:
            KontextError: a MODEL of another kind.
        """
        return require_model(model)

    def require_ours(self, model: Any) -> None:
        """Refuse a MODEL whose transformer is not the pack's.

        Raises:
            KontextError: it is the host's own, or of another kind.
        """
        require_model(model)

    def network(self, model: Any) -> Any:
        """The transformer in a MODEL from `require_model`, wherever it is; never to be run."""
        return model._managed.network

    def notes(self, model: Any, positive: list[list[Any]], nag: bool) -> list[str]:
        """What a run with this MODEL leaves out of references and guidance, one sentence each."""
        return []

    def sampler(self) -> Callable[..., Any] | None:
        """The host's own way to run a MODEL, called as `run_sampler`; None leaves it to the core."""
        return None


class ComfySockets(Sockets):
    """ComfyUI's own kinds: a ModelPatcher around its Flux, a CLIP, a VAE. What imports `comfy` is
    imported when it is asked for."""

    foreign = True

    def model(self, flux: Flux, name: str) -> Any:
        from .wrapper import wrap

        return wrap(flux)

    def clip(self, encoder: TextEncoder | FluxTextEncoders, name: str) -> Any:
        from .host_clip import host_clip

        return host_clip(encoder, name)

    def vae(
        self, autoencoder: AutoEncoder, name: str, resolutions: tuple[tuple[int, int], ...]
    ) -> VaeCalls:
        from .host_vae import host_vae

        return host_vae(autoencoder, name, resolutions)

    def require_model(self, model: Any) -> Any:
        from .guider import require_flux

        return require_flux(model)

    def require_ours(self, model: Any) -> None:
        from .guider import require_ours

        require_ours(model)

    def network(self, model: Any) -> Any:
        return model.model.diffusion_model

    def notes(self, model: Any, positive: list[list[Any]], nag: bool) -> list[str]:
        from .guider import unhonoured

        return unhonoured(model, positive, nag)

    def sampler(self) -> Callable[..., Any] | None:
        from ..preview import reporter
        from .guider import guided, latent_format_of

        def run(model: Any, *inputs: Any, steps: int, **settings: Any) -> Any:
            given = settings.get("sigmas")
            count = settings.get("stop_at") or (steps if given is None else len(given) - 1)
            callback, _ = reporter(count, latent_format_of(model))
            return guided(model, *inputs, steps=steps, callback=callback, **settings).cpu()

        return run


# By what a host says of itself; one that says nothing has the plain kinds.
_KINDS = {"plain": Sockets, "comfy": ComfySockets}


def sockets() -> Sockets:
    """Those of the running host."""
    return _KINDS[getattr(get_host(), "sockets", "plain")]()


def make_model(flux: Flux, name: str) -> Any:
    """A MODEL for the running host, of a network that belongs to it alone.

    In a real ComfyUI that is a `ModelPatcher` around ComfyUI's own Flux, which every node of the
    host's understands; elsewhere a `KontextModel` of this name.
    """
    return sockets().model(flux, name)


def make_clip(encoder: TextEncoder | FluxTextEncoders, name: str) -> Any:
    """What travels on a CLIP socket of the host: on a real ComfyUI a `comfy.sd.CLIP`.

    Args:
        encoder: the network, on the CPU.
        name: of its file, for messages.
    """
    return sockets().clip(encoder, name)


def make_vae(
    autoencoder: AutoEncoder, name: str, resolutions: tuple[tuple[int, int], ...]
) -> VaeCalls:
    """What travels on a VAE socket of the host: on a real ComfyUI a `comfy.sd.VAE`.

    Args:
        autoencoder: the network, on the CPU.
        name: of its file, for messages.
        resolutions: (width, height) the model was trained at.
    """
    return sockets().vae(autoencoder, name, resolutions)
