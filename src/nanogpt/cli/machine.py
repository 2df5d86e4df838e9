"""nanogpt doctor."""

from __future__ import annotations

from nanogpt.cli.base import Json, print_json, show_table, table


def doctor(json: Json = False) -> None:
    """Examine this machine: devices, cores, the rate of matrix products, one training step on each device.

    \b
    nanogpt doctor
    """
    from nanogpt.doctor import examine

    found = examine()
    if json:
        return print_json(found)
    devices = found.pop("devices")
    for key, value in found.items():
        print(f"{key:>10}  {value}")
    made = table("device", "what", "#TFLOP/s fp32", "#bf16", "#step, ms", "same as cpu")
    for name, d in devices.items():
        agrees = f"{'yes' if d['agrees'] else 'NO'} ({d['apart']:.1e} apart)"
        rates = (f"{d['tflops'][p]:.2f}" for p in ("fp32", "bf16"))
        made.add_row(name, d["what"], *rates, f"{1000 * d['step_seconds']:.1f}", agrees)
    return show_table(made)
