// Clicks through the sites that run.py has started: click.js FOLDER NAME=ADDRESS...
// Screenshots are left in FOLDER; the exit status is 1 if a step fails.
'use strict';
const { chromium } = require('playwright-core');

const [folder, ...sites] = process.argv.slice(2);
const password = 'Correct-Horse-9';
let shots = 0;

async function shot(page, name) {
  shots += 1;
  await page.screenshot({ path: `${folder}/${String(shots).padStart(2, '0')}-${name}.png` });
}

function expect(isSo, what) {
  if (!isSo) throw new Error(what);
  console.log('  ' + what);
}

// Asks from within the page, with its cookies.
function get(page, url) {
  return page.evaluate(async (url) => {
    const answer = await fetch(url);
    return { status: answer.status, headers: Object.fromEntries(answer.headers), text: await answer.text() };
  }, url);
}

async function wordpress(page, address) {
  await page.goto(`${address}/`);
  expect(page.url().includes('/wp-admin/install.php'), 'a new blog leads to its installation');
  await page.fill('#weblog_title', 'Antelopes');
  await page.fill('#user_login', 'chief');
  await page.fill('#pass1', password);
  await page.fill('#admin_email', 'chief@blog.example');
  await shot(page, 'wordpress-install');
  await page.click('#submit');
  await page.waitForSelector('a[href*="wp-login.php"]');
  await page.goto(`${address}/wp-login.php`);
  const logIn = async (word) => {
    await page.fill('#user_login', 'chief');
    await page.fill('#user_pass', word);
    await page.click('#wp-submit');
  };
  await logIn('wrong');
  expect(await page.isVisible('#login_error'), 'a wrong password is refused');
  await logIn(password);
  await page.waitForSelector('#wpadminbar');
  await shot(page, 'wordpress-dashboard');
  expect(page.url().endsWith('/wp-admin/'), 'the right one leads to the dashboard');

  // Paths without index.php: WordPress offers them if it knows the server.
  await page.goto(`${address}/wp-admin/options-permalink.php`);
  await page.check('input[name="selection"][value="/%postname%/"]');
  await page.click('#submit');
  const structure = await page.inputValue('#permalink_structure');
  expect(structure === '/%postname%/', `posts have paths such as ${structure}`);

  await page.goto(`${address}/wp-admin/media-new.php?browser-uploader`);
  await page.setInputFiles('#async-upload', `${folder}/pixel.png`);
  await page.click('#html-upload');
  await page.waitForURL('**/upload.php*');
  await shot(page, 'wordpress-media');
  const media = JSON.parse((await get(page, '/wp-json/wp/v2/media')).text);
  expect(media.length === 1, 'an uploaded picture is listed');
  const picture = await get(page, media[0].source_url);
  expect(picture.status === 200 && picture.headers['content-type'] === 'image/png', 'and served as a file');

  await page.goto(`${address}/wp-admin/post-new.php`);
  await page.waitForSelector('.editor-post-title, .wp-block-post-title', { timeout: 120000 });
  await page.keyboard.press('Escape'); // the editor's welcome
  const close = page.locator('.components-modal__header button');
  if (await close.count()) await close.first().click();
  await page.locator('.editor-post-title__input, .wp-block-post-title').first().click();
  await page.keyboard.type('Pronghorns run fast');
  await page.keyboard.press('Enter');
  await page.keyboard.type('They reach 88 km/h.');
  await page.click('.editor-post-publish-panel__toggle, .editor-post-publish-button__button');
  await page.click('.editor-post-publish-panel .editor-post-publish-button');
  await page.waitForSelector('.post-publish-panel__postpublish', { timeout: 120000 });
  await shot(page, 'wordpress-published');
  await page.goto(`${address}/pronghorns-run-fast/`);
  await shot(page, 'wordpress-post');
  const text = await page.textContent('body');
  expect(text.includes('They reach 88 km/h.'), 'a post that was written in the editor is shown under its own path');

  await page.fill('#comment', 'Faster than lions.');
  await page.click('#commentform [type="submit"]');
  await page.waitForURL('**#comment-*');
  expect((await page.textContent('body')).includes('Faster than lions.'), 'a comment appears');
  for (const path of ['/wp-config.php.bak', '/.git/config', '/xmlrpc.php']) {
    const answer = await get(page, path);
    expect(answer.status >= 400, `${path} is ${answer.status}`);
  }
  await page.goto(`${address}/wp-admin/`);
  const out = await page.getAttribute('#wp-admin-bar-logout a', 'href');
  await page.goto(out);
  await page.goto(`${address}/wp-admin/`);
  expect(page.url().includes('wp-login.php'), 'after the logout the dashboard asks for a password');
  await shot(page, 'wordpress-out');
}

async function phpmyadmin(page, address) {
  await page.goto(`${address}/phpmyadmin`);
  await page.fill('#input_username', 'chief');
  await page.fill('#input_password', password);
  await page.click('#input_go');
  await page.waitForSelector('#pma_navigation');
  await shot(page, 'phpmyadmin');
  expect(page.url().includes('/phpmyadmin/'), 'the login leads to the databases');
  await page.goto(`${address}/phpmyadmin/index.php?route=/server/import`);
  await page.setInputFiles('#input_import_file', `${folder}/import.sql`);
  await page.click('#buttonGo');
  await page.waitForSelector('.alert-success');
  await shot(page, 'phpmyadmin-import');
  await page.goto(`${address}/phpmyadmin/index.php?route=/sql&db=zoo&table=antelopes&pos=0`);
  await page.waitForSelector('.table_results');
  await shot(page, 'phpmyadmin-rows');
  const text = await page.textContent('body');
  expect(text.includes('pronghorn 0') && text.includes('2000 total'), 'the rows of an imported file are shown');
  for (const path of ['/phpmyadmin/libraries/constants.php', '/phpmyadmin/templates/login/form.twig', '/']) {
    const answer = await get(page, path);
    expect(answer.status === 404, `${path} is ${answer.status}`);
  }
  await page.click('a.disableAjax[href*="route=/logout"], a[href*="route=/logout"]');
  await page.waitForSelector('#input_username');
  expect(true, 'after the logout it asks for a password');
  await shot(page, 'phpmyadmin-out');
}

async function django(page, address) {
  await page.goto(`${address}/report/`);
  expect(page.url().includes('/admin/login/'), 'a stranger is sent to the login');
  await page.fill('#id_username', 'chief');
  await page.fill('#id_password', password);
  await page.click('[type="submit"]');
  await page.waitForURL('**/report/');
  expect((await page.textContent('body')).includes('only members see'), 'X-Accel-Redirect serves a protected file');
  const direct = await get(page, '/protected/report.txt');
  expect(direct.status === 404, 'which has no address of its own');
  await page.goto(`${address}/admin/`);
  const colour = await page.evaluate(() => getComputedStyle(document.querySelector('#header')).backgroundColor);
  expect(colour !== 'rgba(0, 0, 0, 0)', 'styles are served');
  await shot(page, 'django-admin');
  await page.goto(`${address}/admin/files/document/add/`);
  await page.fill('#id_title', 'A long text');
  await page.setInputFiles('#id_file', `${folder}/upload.txt`);
  await page.click('[name="_save"]');
  await page.waitForSelector('.messagelist .success');
  await shot(page, 'django-saved');
  await page.click('#result_list a');
  const link = await page.getAttribute('.file-upload a', 'href');
  const file = await get(page, link);
  expect(file.text.length === 1700000, 'an upload of 1.7 MB comes back whole');
  expect(file.headers['x-content-type-options'] === 'nosniff', 'and is not guessed to be something else');
  await page.goto(`${address}/admin/auth/user/add/`);
  await page.fill('#id_username', 'member');
  await page.fill('#id_password1', password);
  await page.fill('#id_password2', password);
  await page.click('[name="_save"]');
  await page.waitForSelector('.messagelist .success');
  await page.goto(`${address}/admin/auth/user/`);
  expect((await page.textContent('#result_list')).includes('member'), 'a new user is listed');
  await shot(page, 'django-users');
  await page.goto(`${address}/admin/logout/`);
  await page.goto(`${address}/admin/`);
  expect(page.url().includes('/admin/login/'), 'after the logout the site asks for a password');
  await shot(page, 'django-out');
}

async function page(page, address) {
  await page.goto(`${address}/index.html`, { waitUntil: 'load' });
  const seen = await page.evaluate(() => ({
    protocols: [...new Set(performance.getEntriesByType('resource').map((entry) => entry.nextHopProtocol))],
    whole: [...document.images].filter((image) => image.complete && image.naturalWidth === 1).length,
  }));
  expect(seen.whole === 200 && seen.protocols.join() === 'h2', `${seen.whole} pictures came over ${seen.protocols}`);
}

async function main() {
  const browser = await chromium.launch({
    executablePath: '/usr/bin/chromium',
    headless: true,
    args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update',
      '--disable-sync', '--host-resolver-rules=MAP *.example 127.0.0.1, EXCLUDE 127.0.0.1'],
  });
  let failed = false;
  for (const site of sites) {
    const [name, address] = site.split('=');
    console.log(name);
    const context = await browser.newContext({ ignoreHTTPSErrors: true, viewport: { width: 1280, height: 900 } });
    const tab = await context.newPage();
    tab.setDefaultTimeout(60000);
    tab.on('response', (answer) => {
      if (answer.status() >= 500) console.log(`  ${answer.status()} ${answer.url()}`);
    });
    try {
      await { wordpress, phpmyadmin, django, page }[name](tab, address);
    } catch (error) {
      failed = true;
      console.log(`  FAILED ${error.message}`);
      await shot(tab, `${name}-failed`).catch(() => {});
    }
    await context.close();
  }
  await browser.close();
  process.exit(failed ? 1 : 0);
}

main();
