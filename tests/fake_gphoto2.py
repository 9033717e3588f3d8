"""A gphoto2 module with a camera that shoots the files it is given, and fails where it is told to."""

from __future__ import annotations

from types import SimpleNamespace

from srraw_tools.camera import CardFile


class FakeWidget:
    def __init__(self, value, choices):
        self.value, self.choices = value, choices

    def get_value(self):
        return self.value

    def set_value(self, value):
        self.value = value

    def get_choices(self):
        return self.choices

    def get_type(self):
        return 5


class FakeCamera:
    """Its `faults` on the module are error codes by call, 0 for none, one after the other."""

    def __init__(self, gp):
        self.gp = gp

    def _fail(self, call):
        codes = self.gp.faults.get(call)
        if codes:
            code = codes.pop(0)
            if code:
                raise self.gp.GPhoto2Error(code)

    def init(self):
        self._fail("init")

    def exit(self):
        self._fail("exit")

    def get_abilities(self):
        return SimpleNamespace(model="Fake")

    def get_single_config(self, name):
        if name not in self.gp.config:
            raise self.gp.GPhoto2Error(-2)
        return self.gp.config[name]

    def set_single_config(self, name, widget):
        self._fail("set")
        if name in self.gp.stubborn:
            widget.value = self.gp.stubborn[name]

    def capture(self, kind):
        self._fail("capture")
        self.gp.released += 1
        shot = self.gp.shots.pop(0) if not self.gp.shoots_what_is_set else self._of_ring()
        first, *others = shot
        self.gp.card += [first, *others]
        self._fail("captured")
        files = [first, *others] if self.gp.announces else others
        self.gp.pending += [(self.gp.GP_EVENT_FILE_ADDED, file) for file in files]
        return first

    def wait_for_event(self, timeout_ms):
        self._fail("event")
        if self.gp.pending:
            return self.gp.pending.pop(0)
        if self.gp.delayed:
            (wait, event), *_ = self.gp.delayed
            self.gp.delayed = [(wait - 1, event)] if wait else []
            if not wait:
                return event
        return (self.gp.GP_EVENT_UNKNOWN if self.gp.chatters else self.gp.GP_EVENT_TIMEOUT, None)

    def file_get(self, folder, name, kind):
        self._fail("download")
        return SimpleNamespace(get_data_and_size=self.gp.files[name].read_bytes)

    def _of_ring(self):
        """What a camera makes of the scene at the focal length that its ring stands at, under a new name."""
        name = f"{self.gp.released}-{self.gp.shoots_what_is_set[self.gp.ring]}"
        self.gp.files[name] = self.gp.files[self.gp.shoots_what_is_set[self.gp.ring]]
        return [CardFile("/store", name)]

    def folder_list_files(self, folder):
        self._fail("list")
        return [(file.name, None) for file in self.gp.card if file.folder == folder]

    def folder_list_folders(self, folder):
        return [("store", None)] if folder == "/" else []

    def file_delete(self, folder, name):
        self._fail("delete")
        self.gp.deleted.append(name)
        self.gp.card = [file for file in self.gp.card if file.name != name]


class FakeError(Exception):
    def __init__(self, code):
        super().__init__(code)
        self.code, self.string = code, "fault"


def fake_gp(shots, files, **faults):
    gp = SimpleNamespace(
        GPhoto2Error=FakeError,
        GP_ERROR_BAD_PARAMETERS=-2,
        GP_ERROR_NOT_SUPPORTED=-6,
        GP_WIDGET_RADIO=5,
        GP_WIDGET_MENU=6,
        GP_CAPTURE_IMAGE=0,
        GP_FILE_TYPE_NORMAL=1,
        GP_EVENT_UNKNOWN=0,
        GP_EVENT_TIMEOUT=1,
        GP_EVENT_FILE_ADDED=2,
        GP_EVENT_CAPTURE_COMPLETE=4,
        config={"f-number": FakeWidget("f/2.8", ["f/2.8", "f/20"])},
        stubborn={},
        pending=[],
        delayed=[],
        announces=True,
        chatters=False,
        deleted=[],
        card=[],
        released=0,
        ring=None,
        shoots_what_is_set={},
        files=files,
        faults=faults,
    )
    gp.shots = [[CardFile("/store", name) for name in shot] for shot in shots]
    gp.Camera = lambda: FakeCamera(gp)
    return gp
