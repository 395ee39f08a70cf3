// @ts-check
// A badge on the settings' About page that leads to the project.

import { app } from "../../../scripts/app.js";

app.registerExtension({
  name: "kontext.about",
  aboutPageBadges: [
    {
      label: "Kontext Studio",
      url: "https://github.com/kontext-studio/kontext-studio",
      icon: "pi pi-github",
    },
  ],
});
