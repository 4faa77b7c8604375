// Show an image on a canvas: zoom, pan, window level and width, inversion, and the map of what moved the model.
// Gray levels are recomputed once per change, and the canvas is drawn at most once per frame.

const MOST_ZOOM = 16; // screen pixels per image pixel
const HEAT = [255, 96, 0];
const FULL = { level: 128, width: 256 };

export class Viewer {
  /** Attach to a canvas that has a size. `show` sets its image. */
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.gray = null; // gray levels, one byte per pixel
    this.toned = document.createElement("canvas");
    this.heat = null;
    this.strength = 0.65;
    this.heated = false;
    this.toning = false; // whether dragging sets level and width
    this.held = new Map(); // pointers that are pressed
    this._restore();
    new ResizeObserver(() => this._sized()).observe(canvas);
    this._listen();
  }

  /** Show an image, an ImageBitmap of grays. */
  show(image) {
    const { width, height } = image;
    this.toned.width = width;
    this.toned.height = height;
    const context = this.toned.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    this.pixels = context.getImageData(0, 0, width, height);
    this.gray = new Uint8Array(width * height);
    for (let at = 0; at < this.gray.length; at++) this.gray[at] = this.pixels.data[4 * at];
    this.reset();
  }

  /** Lay a map, an ImageBitmap of grays, over the image. */
  lay(map) {
    this.heat = document.createElement("canvas");
    this.heat.width = map.width;
    this.heat.height = map.height;
    const context = this.heat.getContext("2d");
    context.drawImage(map, 0, 0);
    const places = context.getImageData(0, 0, map.width, map.height);
    for (let at = 0; at < places.data.length; at += 4) {
      places.data[at + 3] = places.data[at];
      [places.data[at], places.data[at + 1], places.data[at + 2]] = HEAT;
    }
    context.putImageData(places, 0, 0);
    this.draw();
  }

  reset() {
    this._restore();
    this.tone();
  }

  _restore() {
    Object.assign(this, FULL, { inverted: false, zoom: 1, x: 0.5, y: 0.5 }); // x, y: the point of the image in the middle of the canvas, 0 to 1
  }

  fit() {
    Object.assign(this, { zoom: 1, x: 0.5, y: 0.5 });
    this.draw();
  }

  invert() {
    this.inverted = !this.inverted;
    this.tone();
  }

  /** Zoom by a factor around the point (px, py) of the canvas, in CSS pixels. */
  zoomBy(factor, px = this.canvas.clientWidth / 2, py = this.canvas.clientHeight / 2) {
    if (!this.gray) return;
    const before = this._scale();
    const most = Math.max(1, MOST_ZOOM / this._fitting());
    this.zoom = Math.min(Math.max(this.zoom * factor, 1), most);
    const after = this._scale();
    const dx = (px - this.canvas.clientWidth / 2) / this.toned.width;
    const dy = (py - this.canvas.clientHeight / 2) / this.toned.height;
    this.x += dx / before - dx / after;
    this.y += dy / before - dy / after;
    this.draw();
  }

  /** Move the image by CSS pixels. Return false if the whole image is visible. */
  moveBy(dx, dy) {
    if (!this.gray || this.zoom <= 1) return false;
    this.x -= dx / (this.toned.width * this._scale());
    this.y -= dy / (this.toned.height * this._scale());
    this.draw();
    return true;
  }

  /** Change level and width, in gray levels. */
  window(level, width) {
    this.level = Math.min(Math.max(this.level + level, 0), 255);
    this.width = Math.min(Math.max(this.width + width, 2), 512);
    this.tone();
  }

  tone() {
    if (!this.gray || this.toneDue) return;
    this.toneDue = true;
    requestAnimationFrame(() => {
      this.toneDue = false;
      const levels = new Uint8ClampedArray(256);
      for (let gray = 0; gray < 256; gray++) {
        const shown = ((gray - this.level) / this.width + 0.5) * 256;
        levels[gray] = this.inverted ? 255 - Math.min(Math.max(shown, 0), 255) : shown;
      }
      const out = new Uint32Array(this.pixels.data.buffer);
      const words = Uint32Array.from(levels, (level) => (0xff000000 | (level * 0x010101)) >>> 0);
      for (let at = 0; at < out.length; at++) out[at] = words[this.gray[at]];
      this.toned.getContext("2d").putImageData(this.pixels, 0, 0);
      this._paint();
    });
  }

  draw() {
    if (!this.gray || this.drawDue) return;
    this.drawDue = true;
    requestAnimationFrame(() => {
      this.drawDue = false;
      this._paint();
    });
  }

  _paint() {
    const { context, toned } = this;
    const dots = this.canvas.width / (this.canvas.clientWidth || 1);
    const scale = this._scale() * dots;
    const [width, height] = [toned.width * scale, toned.height * scale];
    this.x = this._kept(this.x, width, this.canvas.width);
    this.y = this._kept(this.y, height, this.canvas.height);
    const left = this.canvas.width / 2 - this.x * width;
    const top = this.canvas.height / 2 - this.y * height;
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.imageSmoothingEnabled = scale < 4; // at high zoom, show the image's own pixels
    context.imageSmoothingQuality = "high";
    context.drawImage(toned, left, top, width, height);
    if (this.heated && this.heat) {
      context.imageSmoothingEnabled = true;
      context.globalAlpha = this.strength;
      context.drawImage(this.heat, left, top, width, height);
      context.globalAlpha = 1;
    }
    this.canvas.classList.toggle("near", this.zoom > 1);
    this.canvas.dataset.drawn = Number(this.canvas.dataset.drawn ?? 0) + 1;
  }

  /** Limit a middle so that no empty border shows while the image is larger than the canvas. */
  _kept(middle, image, canvas) {
    const half = Math.min(canvas / image / 2, 0.5);
    return Math.min(Math.max(middle, half), 1 - half);
  }

  /** Return CSS pixels per image pixel when the whole image fits; `_scale` returns the current value. */
  _fitting() {
    return Math.min(this.canvas.clientWidth / this.toned.width, this.canvas.clientHeight / this.toned.height);
  }

  _scale() {
    return this._fitting() * this.zoom;
  }

  _sized() {
    const dots = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(this.canvas.clientWidth * dots);
    this.canvas.height = Math.round(this.canvas.clientHeight * dots);
    if (this.gray) this._paint();
  }

  _listen() {
    const { canvas, held } = this;
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        this.zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.002)), event.offsetX, event.offsetY);
      },
      { passive: false },
    );
    canvas.addEventListener("dblclick", (event) => this.zoomBy(2, event.offsetX, event.offsetY));
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      held.set(event.pointerId, event);
      canvas.classList.add("held");
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = held.get(event.pointerId);
      if (!before) return;
      const [dx, dy] = [event.clientX - before.clientX, event.clientY - before.clientY];
      if (held.size === 2) this._pinch(before, event);
      else if (this.toning || before.buttons & 2) this.window(-dy / 2, dx / 2);
      else this.moveBy(dx, dy);
      held.set(event.pointerId, event);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, (event) => {
        held.delete(event.pointerId);
        if (!held.size) canvas.classList.remove("held");
      });
    }
  }

  _pinch(before, after) {
    const other = [...this.held.values()].find((one) => one.pointerId !== after.pointerId);
    const apart = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY) || 1;
    const box = this.canvas.getBoundingClientRect();
    const middle = [(after.clientX + other.clientX) / 2 - box.left, (after.clientY + other.clientY) / 2 - box.top];
    this.zoomBy(apart(after) / apart(before), ...middle);
    this.moveBy((after.clientX - before.clientX) / 2, (after.clientY - before.clientY) / 2);
  }
}
