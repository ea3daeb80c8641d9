"""The map of the library: moved, zoomed, pointed at, and chosen from."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, urlsplit
from urllib.request import urlopen

MARGIN = 36  # pixels around the whole map


def open_map(go, search="?view=map"):
    page = go(search)
    page.wait_for_selector("#map canvas[aria-busy=false]")
    points = json.load(urlopen(page.url.split("/?")[0] + "/map"))["points"]
    return page, points, page.locator("#map canvas").bounding_box()


def lonely(points):
    """The point that is farthest from its neighbours."""
    gap = {a["id"]: min(abs(a["x"] - b["x"]) + abs(a["y"] - b["y"]) for b in points if b is not a) for a in points}
    return max(points, key=lambda point: gap[point["id"]])


def place(point, box):
    return tuple(
        box[a] + MARGIN + point[b] * (box[c] - 2 * MARGIN) for a, b, c in (("x", "x", "width"), ("y", "y", "height"))
    )


def picture(page):
    return page.locator("#map canvas").evaluate("canvas => canvas.toDataURL()")


def changed(page, before):
    page.wait_for_function("old => document.querySelector('#map canvas').toDataURL() !== old", arg=before)


def test_every_file_is_a_point_that_can_be_pointed_at_and_chosen(go, library):
    page, points, box = open_map(go)
    assert len(points) == len(library.files)
    point = lonely(points)
    page.mouse.move(*place(point, box))
    page.wait_for_selector(".tip.shown")
    assert page.inner_text(".tip b") == point["name"].rpartition("/")[2]
    page.mouse.down()
    page.mouse.up()
    page.wait_for_selector("#detail.open h2")
    assert page.inner_text("#detail h2") == point["name"].rpartition("/")[2]
    assert parse_qs(urlsplit(page.url).query)["sel"] == [point["id"]]


def test_a_sketch_is_shown_until_the_places_are_final(go, address):
    page = go()
    told = json.load(urlopen(f"{address}/map"))
    held = []

    def answer(route):
        if "wait_s=20" in route.request.url:
            held.append(route)
        else:
            turned = [{**point, "x": point["y"], "y": point["x"]} for point in told["points"]]
            route.fulfill(json={**told, "points": turned, "final": False})

    page.route("**/map?*", answer)
    page.keyboard.press("m")
    page.wait_for_selector("#map canvas[aria-busy=true]")
    assert page.inner_text("#map-help") == f"{len(told['points'])} sounds, finding their neighbours…"
    page.wait_for_timeout(200)
    before = picture(page)
    held[0].fulfill(json={**told, "files": 4000})
    page.wait_for_selector("#map canvas[aria-busy=false]")
    assert page.inner_text("#map-help").startswith(f"{len(told['points'])} of 4,000 sounds, near what they sound like")
    changed(page, before)
    point, box = lonely(told["points"]), page.locator("#map canvas").bounding_box()
    page.mouse.move(*place(point, box))
    page.wait_for_selector(".tip.shown")
    assert page.inner_text(".tip b") == point["name"].rpartition("/")[2]


def test_the_wheel_zooms_where_the_pointer_is_and_dragging_moves(go):
    page, points, box = open_map(go)
    point = lonely(points)
    x, y = place(point, box)
    page.mouse.move(x, y)
    before = picture(page)
    page.mouse.wheel(0, -400)
    changed(page, before)
    page.mouse.move(x + 200, y)
    page.mouse.move(x, y)
    assert page.inner_text(".tip b") == point["name"].rpartition("/")[2], "what was below the pointer is still there"
    before = picture(page)
    page.mouse.down()
    page.mouse.move(x + 40, y + 30, steps=4)
    page.mouse.up()
    changed(page, before)
    assert not page.locator("#detail.open").count(), "a drag is no click"
    before = picture(page)
    page.get_by_role("button", name="Whole map").click()
    changed(page, before)


def test_two_fingers_zoom_and_so_do_keys(go):
    page, *_ = open_map(go)
    before = picture(page)
    page.locator("#map canvas").evaluate(
        """canvas => {
            const at = (type, pointerId, x, y) => canvas.dispatchEvent(new PointerEvent(type, {
                pointerId, clientX: x, clientY: y, bubbles: true, pointerType: "touch" }));
            canvas.setPointerCapture = () => {};
            const { left, top, width, height } = canvas.getBoundingClientRect();
            const [x, y] = [left + width / 2, top + height / 2];
            at("pointerdown", 11, x - 30, y); at("pointerdown", 12, x + 30, y);
            at("pointermove", 11, x - 120, y); at("pointermove", 12, x + 120, y);
            at("pointerup", 11, x - 120, y); at("pointerup", 12, x + 120, y);
        }"""
    )
    changed(page, before)
    page.locator("#map canvas").focus()
    for key in ("+", "ArrowLeft", "-", "0"):
        before = picture(page)
        page.keyboard.press(key)
        changed(page, before)


def test_results_stand_out_on_it(go):
    page, _, _ = open_map(go)
    before = picture(page)
    page.fill("#query", "rain")
    page.wait_for_selector("#list[aria-busy=false] .row", state="attached")
    changed(page, before)
    assert page.locator(".legend li").count() >= 2
    page.keyboard.press("Escape")
    page.locator("#as-list").click()
    assert page.locator("#list").is_visible() and not page.locator("#map").is_visible()
