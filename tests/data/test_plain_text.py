"""HTML becomes plain text: only what is shaped like a tag goes."""

import time

import pytest

from macrec_hf.data.plain_text import plain_text, whole_letters

TEXTS = {
    # what stays
    "Boots for heels &lt; 3 in and &gt; 2 in": "Boots for heels < 3 in and > 2 in",
    "We <3 tea > coffee": "We <3 tea > coffee",
    "x < y but y > z": "x < y but y > z",
    "if p<q and r>s": "if p<q and r>s",
    "10<20 and 30>20 <-- see <5mm>": "10<20 and 30>20 <-- see <5mm>",
    "sizes <S> <M>, placeholder <name>, the <style> element": "sizes <S> <M>, placeholder <name>, the <style> element",
    "Q&A at M&S & co &": "Q&A at M&S & co &",
    # tags
    "<p>One</p><p>two<br/>three": "One two three",
    "<a href='x>y' title=\"a > b\">link</a> <IMG SRC=a.jpg />": "link",
    '<td nowrap>a</td><font size=2 color="red">b</font>': "a b",
    "<foo>a</foo> <o:p></o:p> <my-tag>b": "a b",
    '<p class="open>cut <a href="http://shop.exam': "cut",
    "<s>old</s> new": "old new",
    "cut in a break<br": "cut in a break",
    "<p>cut at the end</p": "cut at the end",
    "3 < 5 <b": "3 < 5 <b",
    # hidden parts
    "A <style type='text/css'>p > a {color: red}</style>B": "A B",
    "<SCRIPT>if (a<b) { write('<!--') }</SCRIPT >Title": "Title",
    "Title <script>var a = 1;": "Title",
    "<!-- a > b --><!-->shown<!-- <b> -": "shown",
    "<!DOCTYPE html><?xml version='1.0'?><![CDATA[kept]]>": "kept",
    # entities
    "<b>Bold</b>&nbsp;lamp &hearts; &#39;x&#x27;": "Bold lamp ♥ 'x'",
    "Cord &lt;b&gt;3m&lt;/b&gt; &lt;script&gt;x=1&lt;/script&gt;": "Cord 3m",
    "Ben &amp;amp; Jo &amp;quot;Kit&amp;quot; &amp;amp;lt; 5": 'Ben & Jo "Kit" < 5',
    '<a title="5&quot; &gt; x" href=y>t</a>': "t",
    # letters
    "a\x00b\u2028 c\t\nd": "a b c d",
    "\ud83d half, \ud83d\ude00 whole": "\ufffd half, 😀 whole",
}


@pytest.mark.parametrize("text", TEXTS)
def test_plain_text(text):
    assert plain_text(text) == TEXTS[text]


def test_whole_letters():
    assert whole_letters("plain 😀") == "plain 😀" and whole_letters("\ude00\ud83d") == "\ufffd\ufffd"


@pytest.mark.parametrize(
    "part",
    ["<a '", '<a "', "<", "<a ", "<script>", "<!--", "&amp;", "<p x=", "<style x=y ", "<foo>", "&#55357;", "</a "],
)
def test_no_text_takes_long(part):
    start = time.process_time()
    plain_text(part * (200_000 // len(part)))
    assert time.process_time() - start < 2
