// In the editor of `dev.py serve` the small model replaces a checkpoint that is missing, so that every shipped workflow
// can be queued unchanged. stand_in.json lists the replacements; dev.py uses it too.
import { app } from "../../scripts/app.js";

const { replaced, loader, inputs } = await (await fetch(new URL("stand_in.json", import.meta.url))).json();
let stoodIn = false;

function isMissing(node) {
  const [kind, options] = LiteGraph.registered_node_types[replaced].nodeData.input.required.ckpt_name;
  const names = Array.isArray(kind) ? kind : (options?.options ?? []);
  return node.type === replaced && !names.includes(node.widgets_values?.[0]);
}

function setWidgets(node, values) {
  for (const [name, value] of Object.entries(values)) {
    const widget = node.widgets?.find((one) => one.name === name);
    if (widget) widget.value = value;
  }
}

// A value inside a subgraph counts unless it is an input of the subgraph; then that of the node that stands for it does.
function setWidgetsInside(host) {
  for (const inner of host.subgraph.nodes) {
    const values = inputs[inner.type] ?? {};
    setWidgets(inner, values);
    for (const slot of inner.inputs ?? []) {
      const given = host.subgraph.inputs.find((one) => slot.link != null && one.linkIds.includes(slot.link));
      if (given && slot.widget?.name in values) setWidgets(host, { [given.name]: values[slot.widget.name] });
    }
  }
}

app.registerExtension({
  name: "magicface_dev.stand_in",
  beforeConfigureGraph(graph) {
    stoodIn = false;
    for (const node of graph.nodes ?? []) {
      if (!isMissing(node)) continue;
      node.type = loader.class_type;
      node.properties = {};
      node.widgets_values = [...Object.values(loader.inputs), "fixed"];
      stoodIn = true;
    }
  },
  afterConfigureGraph() {
    if (!stoodIn) return;
    for (const node of app.graph.nodes ?? app.graph._nodes) {
      setWidgets(node, inputs[node.type] ?? {});
      if (node.subgraph) setWidgetsInside(node);
    }
  },
});
