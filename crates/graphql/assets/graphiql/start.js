// GraphiQL on the endpoint that served this page. The headers, and so the token in them, are kept in no storage.
"use strict";

ReactDOM.createRoot(document.getElementById("graphiql")).render(
  React.createElement(GraphiQL, {
    fetcher: GraphiQL.createFetcher({ url: window.location.pathname }),
    defaultHeaders: '{\n  "Authorization": "Bearer "\n}',
    defaultQuery:
      "# Put your API token into the headers below, then fetch the schema again (the round arrow on the left).\n\n" +
      "{\n  viewer {\n    mrn\n    roles\n    permissions\n  }\n}\n",
    defaultEditorToolsVisibility: "headers",
    isHeadersEditorEnabled: true,
    shouldPersistHeaders: false,
  }),
);
