from prefect import flow, task

from tasks.runtime.stores import store_of_run


@task
def opened(uri):
    return [store_of_run(uri)]


@flow
def run_of_two_shards(uri):
    return [opened.submit(uri).result() for _ in range(2)]


def test_the_shards_of_a_run_share_one_store_and_the_next_run_opens_its_own(prefect_server, tmp_path):
    [[first], [second]] = run_of_two_shards(str(tmp_path))
    [[later], _] = run_of_two_shards(str(tmp_path))
    assert first is second
    assert later is not first
    assert later.uri == first.uri == str(tmp_path)
