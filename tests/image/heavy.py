"""Runs inside the image: uses what was left of torch and pyarrow as training scripts that stand on the image would."""

import io
import warnings

warnings.filterwarnings("ignore", message="Failed to initialize NumPy")

import pyarrow as pa
import pyarrow.compute
import pyarrow.dataset
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
import torch.utils.checkpoint
from torch.utils.data import DataLoader

SQUARES = [number**2 for number in range(32)]


def main() -> None:
    table = io.BytesIO()
    pq.write_table(pa.table({"square": SQUARES}), table, compression="zstd")
    read = pq.read_table(pa.BufferReader(table.getvalue()))
    assert read["square"].to_pylist() == SQUARES
    assert pyarrow.compute.sum(read["square"]).as_py() == sum(SQUARES)

    for strategy in ("file_descriptor", "file_system"):  # the second needs torch_shm_manager
        torch.multiprocessing.set_sharing_strategy(strategy)
        loader = DataLoader(
            [torch.tensor(square) for square in SQUARES], batch_size=8, num_workers=2
        )
        assert torch.cat(list(loader)).tolist() == SQUARES

    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    dist.barrier()
    dist.destroy_process_group()

    layer = torch.nn.Linear(4, 2)
    torch.utils.checkpoint.checkpoint(layer, torch.ones(1, 4), use_reentrant=False).sum().backward()
    assert layer.weight.grad is not None
    print("all of it works")


if __name__ == "__main__":
    main()
