//! The page with a keyboard alone, on a phone, and after an error in its script.

use serde_json::json;

use super::{MEMBERS, check_quiet, open, publish};
use crate::support::{
    browser::{Browser, ENTER, RIGHT, TAB},
    cluster::api_nodes,
};

pub(super) fn the_keyboard_is_enough() {
    let [first, second, _third] = api_nodes(&[]);
    let browser = open(&first);
    browser.wait(MEMBERS, json!(["node1, alive", "node2, alive", "node3, alive"]));
    let tab_to = |element: &str| {
        let reached = (0..20).any(|_| {
            browser.keys(TAB);
            browser.eval(&format!("document.activeElement.matches('{element}')")) == true
        });
        assert!(reached, "Tab leads to {element}");
    };
    tab_to(".member");
    browser.keys(RIGHT);
    browser.wait_text("#member", "node2");
    tab_to("#key");
    browser.keys("apples");
    tab_to("#value");
    browser.keys("1");
    browser.keys(ENTER);
    browser.wait("document.querySelectorAll('#rows .key').length", 1);
    browser.eval("document.querySelector('#key').select()");
    browser.keys("pears");
    browser.keys(ENTER);
    browser.wait("document.querySelectorAll('#rows .key').length", 2);
    second.log.wait_line(0, &json!({ "event": "received", "key": "pears" }));
    tab_to("#filter");
    browser.keys("APPLE");
    let keys = "[...document.querySelectorAll('#rows .key')].map(key => key.textContent)";
    browser.wait(keys, json!(["apples"]));
    browser.eval("document.querySelector('#filter').select()");
    browser.keys("node1");
    browser.wait(keys, json!(["pears", "apples"]));
    tab_to("#pause");
    browser.keys(ENTER);
    browser.wait("document.querySelector('#pause').ariaPressed", "true");
    browser.eval("document.querySelector('#matrix').scrollIntoView()");
    browser.wait("document.querySelectorAll('td').length", 9);
    tab_to("td");
    browser.keys(RIGHT);
    let cell = browser.eval("document.querySelector('#cell').textContent");
    assert!(cell.as_str().expect("text").starts_with("node1 believes node2 alive"), "{cell}");
    check_quiet(&browser);
}

pub(super) fn it_fits_a_phone() {
    let [first, _second, _third] = api_nodes(&[]);
    let browser = open(&first);
    for theme in ["dark", "light"] {
        browser.prefer("prefers-color-scheme", theme);
        browser.resize(390, 844);
        browser.wait("innerWidth", 390);
        browser.wait("document.documentElement.scrollWidth", 390);
        browser.eval("document.querySelector('#matrix').scrollIntoView()");
        browser.wait("document.querySelectorAll('td').length", 9);
        browser.wait("document.documentElement.scrollWidth", 390);
    }
    on_a_phone_keys_are_whole_and_hints_fit(&browser);
    check_quiet(&browser);
}

fn on_a_phone_keys_are_whole_and_hints_fit(browser: &Browser) {
    browser.resize(390, 844);
    let key = "cache:drop/a-rather-long-key/of-some-service/in-production/42";
    publish(browser, key, "a value");
    browser.wait_text("#rows .key", key);
    let whole = "(() => {
        const [key, list] = ['#rows .key', '#rows'].map(of => document.querySelector(of).getBoundingClientRect());
        const { scrollWidth, clientWidth } = document.querySelector('#rows .key');
        return scrollWidth <= clientWidth && key.left >= list.left && key.right <= list.right;
    })()";
    browser.wait(whole, true);
    let hints = "[...document.querySelectorAll('.keys, .touch')].filter(hint => hint.checkVisibility()).map(hint => hint.className)";
    browser.wait(hints, json!(["keys", "keys"]));
    browser.touch();
    browser.wait(hints, json!(["touch", "touch"]));
}

pub(super) fn nothing_stops_it_for_good() {
    let [first, _second, _third] = api_nodes(&[]);
    let browser = open(&first);
    browser.wait("broadcastPage.stats().members", 3);
    // For a moment it has no size, as in a window that is folded up, while something moves.
    browser.eval("document.querySelector('#ring').style.display = 'none'");
    browser.wait("circle.radius", 0);
    publish(&browser, "unseen", "1");
    browser.wait_text("#rows .key", "unseen");
    browser.wait("broadcastPage.stats().arrived", 2);
    browser.eval("document.querySelector('#ring').style.display = ''");
    browser.wait("circle.radius > 100", true);
    publish(&browser, "seen", "1");
    browser.wait("broadcastPage.stats().arrived", 4);
    browser.wait("broadcastPage.stats().failed", 0);
    check_quiet(&browser);

    // Nor does anything else that is thrown, but it is told.
    browser.eval("window.drawBefore = drawMember");
    browser.eval("drawMember = () => { throw new Error('on purpose') }");
    publish(&browser, "thrown", "1");
    browser.wait_text("#rows .key", "thrown");
    browser.wait("broadcastPage.stats().arrived", 6);
    browser.eval("drawMember = drawBefore");
    publish(&browser, "after", "1");
    browser.wait("broadcastPage.stats().arrived", 8);
    let errors = browser.console_errors();
    assert!(errors.len() == 1 && errors[0].to_string().contains("on purpose"), "{errors:?}");
}
