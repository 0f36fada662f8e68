"use strict";
function reveal() {
  const at = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!at) return;
  for (const open of document.querySelectorAll("[popover]:popover-open")) open.hidePopover();
  const details = at.closest("details");
  if (details) details.open = true;
  at.scrollIntoView({ block: "start" });
}
addEventListener("hashchange", reveal);
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
reveal();
