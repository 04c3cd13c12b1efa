from flows.diagnosis.cluster import judge_cluster
from tasks.adapters.ray_probe import ClusterFacts


def test_judge_cluster_wants_a_node_that_trains_and_one_that_measures() -> None:
    whole = {"CPU": 8.0, "GPU": 1.0, "memory": 2.0**35, "target-cpu": 1.0}

    found = judge_cluster(ClusterFacts("auto", 2, whole))
    assert (found.state, found.detail) == ("ok", "auto: 2 nodes, 8 CPU, 1 GPU, 32 GiB of memory, 1 target-cpu")
    found = judge_cluster(ClusterFacts("auto", 1, {"CPU": 8.0}))
    assert (found.state, "target-cpu" in found.remedy) == ("note", True)
    found = judge_cluster(ClusterFacts("auto", 1, {"target-cpu": 1.0}))
    assert (found.state, "--num-cpus" in found.remedy) == ("broken", True)
