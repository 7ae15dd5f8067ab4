"""One process without a process group; several with one; and core stays light."""

import os
import subprocess
import sys

from astromodal.parallel import rank as rank_module

SRC = str(rank_module.__file__).rsplit("/astromodal/", 1)[0]


def test_without_a_process_group_there_is_one_process():
    assert (rank_module.rank(), rank_module.world_size(), rank_module.is_main()) == (0, 1, True)
    rank_module.barrier()
    assert rank_module.broadcast_object("x") == "x"


def test_before_the_group_is_up_torchrun_says_which_process_this_is(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    assert rank_module.is_main()  # a stray variable alone means nothing
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (rank_module.rank(), rank_module.world_size(), rank_module.is_main()) == (3, 4, False)


def test_two_processes_agree_on_the_id_of_the_first(tmp_path):
    code = (
        "import sys, torch.distributed as d\n"
        "from astromodal.core import RunContext, make_run_id\n"
        "from astromodal.parallel.rank import barrier, is_main, rank, world_size\n"
        "where = 'file://' + sys.argv[1] + '/store'\n"
        "d.init_process_group('gloo', init_method=where, rank=int(sys.argv[2]), world_size=2)\n"
        "with RunContext.open({'run_dir': sys.argv[1] + '/r', 'run_id': 'id' + sys.argv[2]}, 's') as run:\n"
        "    barrier(); print(rank(), world_size(), is_main(), run.id, type(run.tracker).__name__)\n"
        "    barrier()\n"
    )
    env = os.environ | {"PYTHONPATH": SRC, "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, tmp_path, str(k)],
            env=env,
            stdout=subprocess.PIPE,
            text=True,
            stderr=subprocess.DEVNULL,
        )
        for k in range(2)
    ]
    outs = [p.communicate(timeout=120)[0].strip() for p in both]
    assert outs == ["0 2 True id0 Tracker", "1 2 False id0 NullTracker"]
    assert (tmp_path / "r" / "run.json").exists()


def test_importing_core_imports_nothing_heavy():
    code = (
        "import sys, astromodal.core\n"
        "heavy = ('torch', 'wandb', 'pyarrow', 'sklearn', 'joblib', 'omegaconf', 'hydra')\n"
        "print(*[m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": SRC}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "\n")
