from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from deita_core.report.page import breakable


@given(st.text(st.sampled_from("/a<>&'\"w"), max_size=20))
def test_a_path_may_break_after_its_slashes_and_is_otherwise_as_it_was(path):
    parser = HTMLParser(convert_charrefs=True)
    tags, texts = [], []
    parser.handle_starttag = lambda tag, attributes: tags.append((tag, attributes))
    parser.handle_data = texts.append
    parser.feed(breakable(path))
    parser.close()
    assert "".join(texts) == path
    assert tags == [("wbr", [])] * path.count("/")
