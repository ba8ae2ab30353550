// The API's reference, made of /openapi.json, with a form to try each operation out.

import { KEY, ask, make } from "./parts.js";

const key = document.querySelector("#key");
key.value = sessionStorage.getItem(KEY) ?? "";
key.addEventListener("input", () => sessionStorage.setItem(KEY, key.value));

const named = (ref) => ref.split("/").at(-1);
const slug = (text) => text.replace(/\W+/g, "-").toLowerCase();

// Text with `code` in it.
function prose(text) {
  return text.split(/`([^`]*)`/).map((part, at) => (at % 2 ? make("code", {}, part) : part));
}

// What a schema says, in one line.
function typeOf(schema) {
  if (schema.$ref) return make("a", { href: `#type-${named(schema.$ref)}` }, named(schema.$ref));
  if (schema.anyOf) {
    const options = schema.anyOf.filter((each) => each.type !== "null");
    const said = make("span");
    options.forEach((each, at) => said.append(at ? " or " : "", typeOf(each)));
    return said;
  }
  if (schema.type === "array") return make("span", {}, "list of ", typeOf(schema.items ?? {}));
  if (schema.type === "object" && schema.additionalProperties) {
    return make("span", {}, "object of ", typeOf(schema.additionalProperties));
  }
  return make("span", {}, schema.type ?? "any JSON");
}

function bounds(schema) {
  const options = schema.anyOf?.filter((each) => each.type !== "null");
  const said = options?.length === 1 ? { ...options[0], ...schema } : schema;
  const found = [];
  if (said.minimum != null || said.maximum != null) {
    found.push(`${said.minimum ?? ""}…${said.maximum ?? ""}`);
  }
  if (said.minLength != null || said.maxLength != null) {
    found.push(`${said.minLength ?? 0}–${said.maxLength ?? ""} characters`);
  }
  if (said.minItems != null || said.maxItems != null) {
    found.push(`${said.minItems ?? 0}–${said.maxItems ?? ""} items`);
  }
  if (said.default != null) found.push(`default ${JSON.stringify(said.default)}`);
  return found.join(", ");
}

function described(schema) {
  const option = schema.anyOf?.find((each) => each.type !== "null");
  return schema.description ?? option?.description ?? "";
}

function fields(rows) {
  return make("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Fields" },
    make("table", {},
      make("thead", {}, make("tr", {}, ...["Field", "Type", "Bounds", "Meaning"].map((name) => make("th", { scope: "col" }, name)))),
      make("tbody", {}, ...rows.map(({ name, required, schema, description }) =>
        make("tr", {},
          make("th", { scope: "row" }, make("code", {}, name), required ? make("span", { class: "must" }, " required") : null),
          make("td", {}, typeOf(schema)),
          make("td", {}, bounds(schema)),
          make("td", {}, ...prose(description ?? described(schema)))))),
    ));
}

const ofType = (schema) =>
  Object.entries(schema.properties ?? {}).map(([name, each]) => ({
    name, schema: each, required: schema.required?.includes(name),
  }));

// An example of what a schema takes: its required fields.
function example(schema, schemas) {
  if (schema.$ref) return example(schemas[named(schema.$ref)], schemas);
  if (schema.anyOf) return example(schema.anyOf[0], schemas);
  if (schema.type === "object") {
    const required = schema.required ?? [];
    return Object.fromEntries(required.map((name) => [name, guess(name, schema.properties[name], schemas)]));
  }
  if (schema.type === "array") return [example(schema.items ?? {}, schemas)];
  return { string: "", integer: 0, number: 0, boolean: false }[schema.type] ?? null;
}

const guesses = { room: "chat:lobby", user: "alice", title: "Dinner", type: "chat_message", worker: "local" };

function guess(name, schema, schemas) {
  if (name === "rooms") return ["events:news"];
  if (name === "commands") return [{ presence: { room: "chat:lobby" } }];
  return guesses[name] ?? example(schema, schemas);
}

function trial(path, method, operation, schemas) {
  const inputs = new Map();
  const form = make("form", { class: "trial" });
  if (method === "get") {
    for (const each of operation.parameters ?? []) {
      const input = make("input", { name: each.name, required: each.required, placeholder: guesses[each.name] ?? "" });
      inputs.set(each.name, input);
      form.append(make("label", { class: "field" }, each.name, input));
    }
  } else {
    const schema = operation.requestBody.content["application/json"].schema;
    const area = make("textarea", { rows: "6", spellcheck: "false" });
    area.value = JSON.stringify(example(schema, schemas), null, 2);
    inputs.set("", area);
    form.append(make("label", { class: "field" }, "Body", area));
  }
  const answer = make("pre", { class: "answer", "aria-live": "polite", tabindex: "0", hidden: true });
  form.append(make("button", { type: "submit" }, "Send"), answer);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    answer.hidden = false;
    answer.textContent = "…";
    const query = method === "get" ? Object.fromEntries([...inputs].map(([name, input]) => [name, input.value])) : {};
    const body = method === "post" ? inputs.get("").value : undefined;
    try {
      const { status, body: told } = await ask(path, { method: method.toUpperCase(), key: key.value, query, body });
      answer.textContent = `${status}\n${typeof told === "string" ? told : JSON.stringify(told, null, 2)}`;
    } catch (error) {
      answer.textContent = `no answer: ${error.message}`;
    }
  });
  return form;
}

function card(path, method, operation, schemas) {
  const id = `op-${operation.operationId}`;
  const taken = operation.parameters?.map((each) => ({ ...each })) ?? [];
  const ref = operation.requestBody?.content["application/json"].schema;
  const rows = ref ? ofType(schemas[named(ref.$ref)]) : taken;
  const answered = operation.responses["200"].content["application/json"].schema;
  const problems = Object.entries(operation.responses).filter(([status]) => status !== "200");
  return make("article", { class: "card", id, "aria-labelledby": `${id}-title` },
    make("h3", { id: `${id}-title` },
      make("span", { class: `method ${method}` }, method.toUpperCase()), " ", make("code", {}, path)),
    make("p", {}, make("strong", {}, operation.summary), " ", ...prose(operation.description)),
    rows.length ? fields(rows) : make("p", { class: "quiet" }, "It takes nothing."),
    make("p", {}, "Answers ", typeOf(answered), "."),
    make("details", {}, make("summary", {}, "Problems"),
      make("ul", {}, ...problems.map(([status, each]) => make("li", {}, make("code", {}, status), " ", each.description)))),
    make("details", {}, make("summary", {}, "Try it out"), trial(path, method, operation, schemas)),
  );
}

async function show() {
  const spec = await (await fetch("/openapi.json")).json();
  const schemas = spec.components.schemas;
  document.querySelector("#version").textContent = spec.info.version;
  document.querySelector("#about").append(...prose(spec.info.description));
  const index = document.querySelector("#index");
  const operations = document.querySelector("#operations");
  for (const { name } of spec.tags) {
    const list = make("ul");
    const section = make("section", { "aria-labelledby": slug(name) }, make("h2", { id: slug(name) }, name));
    for (const [path, methods] of Object.entries(spec.paths)) {
      for (const [method, operation] of Object.entries(methods)) {
        if (!operation.tags.includes(name)) continue;
        list.append(make("li", {}, make("a", { href: `#op-${operation.operationId}` }, operation.operationId)));
        section.append(card(path, method, operation, schemas));
      }
    }
    index.append(make("h2", {}, name), list);
    operations.append(section);
  }
  const types = document.querySelector("#types");
  for (const [name, schema] of Object.entries(schemas)) {
    types.append(make("article", { class: "card", id: `type-${name}` },
      make("h3", {}, name), make("p", {}, ...prose(schema.description ?? "")),
      schema.properties ? fields(ofType(schema)) : null));
  }
  if (location.hash) document.querySelector(CSS.escape ? `#${CSS.escape(location.hash.slice(1))}` : location.hash)?.scrollIntoView();
  document.body.dataset.ready = "yes";
}

show().catch((error) => {
  document.querySelector("#about").textContent = `The document cannot be read: ${error.message}`;
});
