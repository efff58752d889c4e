"""The report and the live page in a browser."""

import itertools

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from dime.report import write_report
from tests.figures.make_run import make_run
from tests.report.browser import (
    complaints,
    emulate,
    open_browser,
    requests,
    wait_until,
)
from tests.report.made import append_evaluations, make_grid, make_study, set_status
from tests.report.test_report import HOSTILE
from tests.report.test_server import serving

ALGORITHMS = ("dime", "sac", "crossq")
ENVS = ("dm_control/dog-run", "dm_control/dog-walk", "Ant-v5", "Humanoid-v5", "Hopper-v5")
BOLD = f"{HOSTILE}<b>bold</b>"  # which the chart library would understand
MODES = ("stochastic", "deterministic")

# The kinds of curves in each drawn chart, and whether all is as it should be by now.
SHOWN = """return [...document.querySelectorAll(".plot")].map((plot) =>
  plot.data ? [...new Set(plot.data.map((trace) => trace.meta.kind))].sort() : null)"""
SETTLED = "return document.querySelectorAll('figure[data-stale]').length === 0"
LINES = """return [...document.querySelectorAll(".plot")].map((plot) =>
  plot.querySelectorAll("path.js-line").length)"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    study = make_grid(folder / "study", ALGORITHMS, ENVS, modes=MODES)
    return write_report(study, folder / "report.html", reference="shipped")


@pytest.fixture
def page(browser, report):
    """The report, opened afresh and not yet scrolled."""
    emulate(browser)
    browser.get("about:blank")
    complaints(browser), requests(browser)
    browser.get(report.as_uri())
    return browser


def shown(browser):
    wait_until(lambda: browser.execute_script(SETTLED))
    return browser.execute_script(SHOWN)


def chart(browser, name=ENVS[0]):
    return browser.find_element(By.CSS_SELECTOR, f'figure[data-name="{name}"]')


def draw_all(browser):
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")


def toggle(browser, kind):
    return browser.find_element(By.CSS_SELECTOR, f'[data-toggle="{kind}"]')


def test_every_chart_is_drawn_without_a_complaint_or_a_request(page, report):
    last = page.find_elements(By.CSS_SELECTOR, "figure.chart")[-1]
    page.execute_script("arguments[0].scrollIntoView()", last)
    wait_until(lambda: last.get_attribute("data-drawn"))
    draw_all(page)
    assert len(shown(page)) == len(ENVS)
    with_reference = [sorted([*ALGORITHMS, "DIME, published"]), sorted(ALGORITHMS)]
    assert all(kinds in with_reference for kinds in shown(page))
    # a line and a band for each algorithm
    assert min(page.execute_script(LINES)) >= 2 * len(ALGORITHMS)
    assert complaints(page) == []
    addresses = requests(page)
    assert report.as_uri() in addresses
    assert all(address.startswith(("file:", "data:", "blob:")) for address in addresses), addresses


def test_nothing_can_be_fetched(page):
    stopped = page.execute_async_script("""
        const done = arguments[arguments.length - 1];
        addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective));
        fetch("http://127.0.0.1:9/").catch(() => setTimeout(() => done("not stopped"), 2000));
    """)
    assert stopped == "connect-src"
    complaints(page)


def test_an_algorithm_is_switched_off_and_on_in_all_charts(page):
    draw_all(page)
    toggle(page, "sac").click()
    assert all("sac" not in kinds and "dime" in kinds for kinds in shown(page))
    toggle(page, "sac").send_keys(Keys.SPACE)  # as with the mouse
    assert all("sac" in kinds for kinds in shown(page))
    page.find_element(By.CSS_SELECTOR, "[data-all=none]").click()
    assert all(kinds == [] for kinds in shown(page))
    page.find_element(By.CSS_SELECTOR, "[data-all=all]").click()
    assert all(set(ALGORITHMS) <= set(kinds) for kinds in shown(page))


def test_a_mode_is_chosen_for_charts_and_table(page):
    draw_all(page)
    table = {
        mode: page.find_element(By.CSS_SELECTOR, f'[data-mode="{mode}"]')
        for mode in ("official", *MODES)
    }
    first = """return document.querySelector(".plot").data.find(
        (trace) => trace.meta.kind === "dime" && trace.text).y"""
    seen = []
    for mode in ("official", "deterministic", "stochastic"):
        option = page.find_element(By.CSS_SELECTOR, f'#mode option[value="{mode}"]')
        option.click()
        assert all(set(ALGORITHMS) <= set(kinds) for kinds in shown(page))
        assert [name for name, one in table.items() if one.is_displayed()] == [mode]
        seen.append(page.execute_script(first))
    assert seen[0] == seen[2] != seen[1]  # stochastic is what dime's paper reports


def test_charts_follow_the_readers_colours(page):
    draw_all(page)
    colour = "return getComputedStyle(document.querySelector('.plot .xtick text')).fill"
    paper = "return getComputedStyle(document.body).backgroundColor"
    light = page.execute_script(colour), page.execute_script(paper)
    emulate(page, dark=True)
    wait_until(lambda: page.execute_script(colour) != light[0])
    assert page.execute_script(paper) == "rgb(20, 23, 28)" != light[1]
    emulate(page)
    wait_until(lambda: page.execute_script(colour) == light[0])


def test_a_phone_need_not_scroll_sideways(page):
    emulate(page, 390, 844, phone=True)
    draw_all(page)
    for part in page.find_elements(By.TAG_NAME, "summary"):
        page.execute_script("arguments[0].parentNode.open = true", part)
    width = "return [document.documentElement.scrollWidth, innerWidth]"
    wait_until(lambda: page.execute_script(width) == [390, 390])
    overflowing = page.execute_script("""
        return [...document.querySelectorAll("main *")].filter((node) =>
          node.getBoundingClientRect().right > innerWidth + 1 && !node.closest(".scroll, pre")
        ).map((node) => node.outerHTML.slice(0, 80))""")
    assert overflowing == []


def test_texts_of_runs_do_not_run(browser, tmp_path):
    runs = [make_run(tmp_path / "a<b", HOSTILE, "sac"), make_run(tmp_path / "c", HOSTILE, BOLD)]
    set_status(runs[0], "failed", HOSTILE)
    study = make_study(tmp_path, HOSTILE, runs, source=HOSTILE)
    emulate(browser)
    complaints(browser)
    browser.get(write_report(study, tmp_path / "report.html").as_uri())
    draw_all(browser)
    plot = browser.find_element(By.CSS_SELECTOR, ".plot")
    places = itertools.cycle((-50, 50, 0))

    def hover_texts():
        mouse = ActionChains(browser).move_to_element_with_offset(plot, next(places), 0)
        mouse.pause(0.2).perform()
        texts = browser.find_elements(By.CSS_SELECTOR, ".hoverlayer text")
        return "onerror" in "".join(shown := [text.text for text in texts]) and shown

    assert any(BOLD in text for text in wait_until(hover_texts))
    assert browser.find_element(By.TAG_NAME, "h1").text == HOSTILE
    assert browser.find_elements(By.TAG_NAME, "img") == []
    assert complaints(browser) == []


def test_the_live_page_follows_the_runs_and_keeps_what_the_reader_chose(browser, tmp_path):
    study = make_grid(tmp_path / "runs" / "study", ALGORITHMS, ENVS[:2])
    emulate(browser)
    with serving(tmp_path / "runs") as server:
        complaints(browser), requests(browser)
        browser.get(f"http://127.0.0.1:{server.server_port}/")
        draw_all(browser)
        toggle(browser, "sac").click()
        chart(browser).find_element(By.TAG_NAME, "summary").click()
        area = chart(browser).find_element(By.CSS_SELECTOR, ".nsewdrag")
        drag = ActionChains(browser).move_to_element_with_offset(area, -60, 0).click_and_hold()
        drag.move_by_offset(90, 0).release().perform()
        extent = "return arguments[0].querySelector('.plot').layout.xaxis.range"
        wait_until(lambda: browser.execute_script(extent, chart(browser))[1] < 1500)
        zoomed = browser.execute_script(extent, chart(browser))
        append_evaluations(study / "dm_control-dog-run-dime", 2000)
        make_run(tmp_path / "runs" / "new", "Hopper-v5", "bro")
        wait_until(lambda: len(browser.find_elements(By.CSS_SELECTOR, "figure.chart")) == 3)
        points = "return arguments[0].querySelector('.plot').data?.map((trace) => trace.x.length)"
        wait_until(lambda: 5 in (browser.execute_script(points, chart(browser)) or []))
        assert browser.execute_script(extent, chart(browser)) == zoomed
        assert all("sac" not in (kinds or []) for kinds in shown(browser))
        assert not toggle(browser, "sac").is_selected()
        opened = chart(browser).find_element(By.TAG_NAME, "details")
        assert opened.get_attribute("open")
        assert "2k" in opened.text
        names = [node.text for node in browser.find_elements(By.CSS_SELECTOR, "figcaption strong")]
        assert sorted(names) == sorted([*ENVS[:2], "Hopper-v5"])
        assert toggle(browser, "bro").is_selected()
        place = f"http://127.0.0.1:{server.server_port}/"
        addresses = [address for address in requests(browser) if not address.startswith("data:")]
        assert all(address.startswith(place) for address in addresses), addresses
        assert complaints(browser) == []
    wait_until(lambda: "not connected" in browser.find_element(By.ID, "live").text)
    browser.get("about:blank")
