"""A page with ipywidgets' own manager of widgets, and a kernel behind it; tests/test_widgets.py clicks on it.

    python tests/widget_page.py CODE.py      says its address; the code runs when the page is opened

JupyterLab shows widgets with the same models and views (`@jupyter-widgets/base`, `controls`); only the page around them is
its own.
"""
import asyncio
import json
import sys
from pathlib import Path

from jupyter_client import AsyncKernelManager
from tornado import httpserver, netutil, web, websocket

MODULES = Path(__file__).parent / "node_modules"
PAGE = """<!doctype html><meta charset="utf-8"><title>widgets</title><link rel="icon" href="data:,">
<div id="out"></div><pre id="log"></pre>
<script src="/npm/requirejs/require.js"></script>
<script src="/npm/@jupyter-widgets/html-manager/dist/libembed-amd.js"></script>
<script>
require(["@jupyter-widgets/html-manager"], ({HTMLManager}) => {
  const socket = new WebSocket(`ws://${location.host}/kernel`), comms = {}, waiting = {};
  const log = text => document.getElementById("log").append(text + "\\n");
  const comm = (id, target) => comms[id] = {
    comm_id: id, target_name: target, open() {}, close() {}, on_close() {},
    on_msg(heard) { this.heard = heard; },
    send(data, callbacks) {
      const name = crypto.randomUUID();
      waiting[name] = callbacks;
      socket.send(JSON.stringify({name, content: {comm_id: id, data}}));
      return name;
    }};
  class Manager extends HTMLManager {
    _create_comm(target, id) { return Promise.resolve(comm(id, target)); }
    _get_comm_info() { return Promise.resolve({}); }
  }
  const manager = new Manager(), VIEW = "application/vnd.jupyter.widget-view+json";
  async function handle(message) {
    const {content, header: {msg_type: kind}} = message;
    if (kind == "comm_open") await manager.handle_comm_open(comm(content.comm_id, content.target_name), message);
    if (kind == "comm_msg") await comms[content.comm_id]?.heard?.(message);
    if (kind == "status") waiting[message.parent_header.msg_id]?.iopub?.status?.(message);
    if (kind == "error") log(content.traceback.join("\\n"));
    if (kind == "display_data" && content.data[VIEW]) {
      const model = await manager.get_model(content.data[VIEW].model_id);
      await manager.display_view(await manager.create_view(model), document.getElementById("out"));
    }
  }
  let last = Promise.resolve();
  socket.onmessage = ({data}) => { last = last.then(() => handle(JSON.parse(data))).catch(error => log(error.stack)); };
});
</script>"""


class Page(web.RequestHandler):
    def get(self): self.write(PAGE)


class Kernel(websocket.WebSocketHandler):
    """Whatever a kernel says goes to the page, and what a widget says there to the kernel."""
    async def open(self):
        self.manager = AsyncKernelManager()
        await self.manager.start_kernel()
        self.client = self.manager.client()
        self.client.start_channels()
        await self.client.wait_for_ready(timeout=300)
        self.listener = asyncio.ensure_future(self.listen())
        self.client.execute(Path(sys.argv[1]).read_text(encoding="utf-8"), allow_stdin=True)

    async def listen(self):
        while True:
            message = await self.client.get_iopub_msg(timeout=None)
            message.pop("buffers")
            await self.write_message(json.dumps(message, default=str))

    def on_message(self, text):
        said = json.loads(text)
        message = self.client.session.msg("comm_msg", said["content"])
        message["header"]["msg_id"] = message["msg_id"] = said["name"]
        self.client.shell_channel.send(message)

    def on_close(self):
        self.listener.cancel()
        asyncio.ensure_future(self.manager.shutdown_kernel(now=True))


async def main():
    sockets = netutil.bind_sockets(0, "127.0.0.1")
    files = (r"/npm/(.*)", web.StaticFileHandler, dict(path=str(MODULES)))
    httpserver.HTTPServer(web.Application([("/", Page), ("/kernel", Kernel), files])).add_sockets(sockets)
    print(f"http://127.0.0.1:{sockets[0].getsockname()[1]}/", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until whoever started it goes
    await asyncio.sleep(1)


asyncio.run(main())
