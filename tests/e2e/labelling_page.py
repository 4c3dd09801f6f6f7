"""Label Studio's labelling page, as a person sees and uses it in a browser."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page, expect

# By how much a colour must change to count, of 255: the page is otherwise still, and a label may have the colour of
# what lies below it.
VISIBLE = 2
# The tools lie over the right edge of the frame, and the bar with the buttons over the lower edge of the page.
TOOLS_WIDTH = 90
BAR_HEIGHT = 60


@dataclass(frozen=True, kw_only=True)
class View:
    """Where the frame is on the screen, in screen pixels. A part of it may lie outside of the visible box."""

    frame: tuple[int, int, int, int]  # x, y, width, height
    visible: tuple[int, int, int, int]

    def crop(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The visible part of `mask`, (H, W) in pixels of the frame, as it would lie on the screen."""
        left, top, width, height = self.visible
        x, y, *size = self.frame
        on_screen = np.asarray(Image.fromarray(mask).resize((size[0], size[1]), Image.Resampling.NEAREST))
        return on_screen[top - y : top - y + height, left - x : left - x + width]

    def on_screen(self, row: float, column: float, shape: tuple[int, int]) -> tuple[float, float]:
        """x and y on the screen of a place in a frame of `shape` (H, W)."""
        x, y, width, height = self.frame
        return x + (column + 0.5) / shape[1] * width, y + (row + 0.5) / shape[0] * height


class LabellingPage:
    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self._paging = page.locator(".lsf-pagination")

    def log_in(self, email: str, password: str) -> None:
        self.page.goto(f"{self.url}/user/login/")
        self.page.fill("input[name=email]", email)
        self.page.fill("input[name=password]", password)
        self.page.click("button[type=submit]")
        expect(self.page).not_to_have_url(f"{self.url}/user/login/")

    def open_task(self, project: int, task: int) -> None:
        self.page.goto(f"{self.url}/projects/{project}/data?task={task}")
        expect(self._paging).to_be_visible(timeout=60_000)
        expect(self.page.locator(".lsf-tree__node").first).to_be_visible(timeout=60_000)
        self._settle()

    def open_label_stream(self, project: int) -> None:
        """The first task that waits for somebody, with what is predicted of it."""
        self.page.goto(f"{self.url}/projects/{project}/data?labeling=1")
        expect(self._paging).to_be_visible(timeout=60_000)
        expect(self.page.locator(".lsf-tree__node").first).to_be_visible(timeout=60_000)
        self._settle()

    def start_training(self, project: int) -> None:
        """Press the button of the project's settings, and see that Label Studio has sent it on."""
        self.page.goto(f"{self.url}/projects/{project}/settings/ml")
        self.page.get_by_label("Machine learning model options").click()
        self.page.get_by_text("Start Training", exact=True).click()
        self.page.get_by_role("button", name="Start Training").click()
        expect(self.page.get_by_text("Request Sent!")).to_be_visible(timeout=30_000)

    @property
    def pages(self) -> int:
        return int(self._paging.inner_text().split("of")[1])

    def go_to(self, number: int) -> None:
        """Page through the frames to page `number`, from 1."""
        while (now := self._page_number()) != number:
            side = "right" if now < number else "left"
            # The doubled arrow goes to the last or first page.
            self._paging.locator(f"[class*=btn_arrow-{side}]:not([class*=double])").click()
            expect(self._paging).not_to_contain_text(f"{now} of")
        self.page.mouse.move(0, 0)  # or the button's tooltip stays in the picture
        self._settle()

    def select_region(self, index: int) -> None:
        """Choose the region in the list, from 0; the page turns to its frame."""
        self.page.locator(".lsf-tree__node").nth(index).click()
        self._settle()

    def view(self) -> View:
        size = self.page.viewport_size
        assert size is not None
        # The canvas may be larger than the box that it is shown in.
        boxes = [self._box(".konvajs-content"), self._box(".lsf-object > [class*=container--]:has(img)")]
        left, top = (max(box[side] for box in boxes) for side in (0, 1))
        right = min(x + width for x, _, width, _ in boxes) - TOOLS_WIDTH
        bottom = min(size["height"] - BAR_HEIGHT, *(y + height for _, y, _, height in boxes))
        return View(frame=self._box(".lsf-image img"), visible=(left, top, right - left, bottom - top))

    def drawn(self) -> NDArray[np.bool_]:
        """(h, w) of the view's visible box: where the regions change what is seen of the frame."""
        shown = self._picture()
        self.page.get_by_label("Hide all regions").click()
        expect(self.page.get_by_label("Show all regions")).to_be_visible()
        self._settle()
        hidden = self._picture()
        self.page.get_by_label("Show all regions").click()
        expect(self.page.get_by_label("Hide all regions")).to_be_visible()
        self._settle()
        changed: NDArray[np.bool_] = np.abs(shown - hidden).max(axis=2) > VISIBLE
        return changed

    def brush(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """One stroke of the brush on the region that is selected."""
        self.page.get_by_label("brush-tool").click()
        self.page.mouse.move(*start)
        self.page.mouse.down()
        self.page.mouse.move(*end, steps=5)
        self.page.mouse.up()
        self._settle()

    def submit(self) -> None:
        with self.page.expect_response(lambda answer: "/annotations" in answer.url and answer.request.method == "POST"):
            self.page.get_by_test_id("bottombar-submit-button").click()

    def _page_number(self) -> int:
        return int(self._paging.inner_text().split("of")[0])

    def _settle(self) -> None:
        """Until the frame is loaded and two pictures of it in a row are the same."""
        self.page.wait_for_load_state("networkidle")
        self.page.wait_for_function("document.querySelector('.lsf-image img')?.naturalWidth > 0")
        before = self._picture()
        while not np.array_equal(before, after := self._picture()):
            before = after

    def _picture(self) -> NDArray[np.int16]:
        x, y, width, height = self.view().visible
        png = self.page.screenshot(clip={"x": x, "y": y, "width": width, "height": height})
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=np.int16)

    def _box(self, selector: str) -> tuple[int, int, int, int]:
        box = self.page.locator(selector).last.bounding_box()  # below a video, which may have a canvas of its own
        assert box is not None, f"{selector} is not to be seen"
        return round(box["x"]), round(box["y"]), round(box["width"]), round(box["height"])
