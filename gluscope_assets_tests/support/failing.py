"""An asset that fails as it is told."""

import dagster as dg

from gluscope_assets.orchestration import retries
from gluscope_assets.orchestration.resources import GPU_POOL


def failing(errors: list[BaseException], tries: list[int]) -> dg.AssetsDefinition:
    """An asset that fails with each of `errors` in turn, then succeeds; it notes the number of each try."""

    @dg.asset(key=["tiny", "stage"], pool=GPU_POOL)
    @retries.tried_again_if_transient
    def stage(context: dg.AssetExecutionContext) -> None:
        tries.append(context.retry_number)
        if len(tries) <= len(errors):
            raise errors[len(tries) - 1]

    return stage
