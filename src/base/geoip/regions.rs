//! The names of regions in MaxMind's older databases, for some countries.
//!
//! Codes and names are those of ISO 3166-2 for the United States and Canada, of FIPS 10-4 for other countries. Their thousands of
//! further regions have no names here.

/// The name of a region.
pub fn name(country: &str, code: &[u8]) -> Option<&'static str> {
    let table = match country {
        "US" => US,
        "CA" => CA,
        "AU" => AU,
        "DE" => DE,
        "RU" => RU,
        _ => return None,
    };
    table.iter().find(|(known, _)| known.as_bytes() == code).map(|(_, name)| *name)
}

#[rustfmt::skip]
const US: &[(&str, &str)] = &[
    ("AL", "Alabama"), ("AK", "Alaska"), ("AZ", "Arizona"), ("AR", "Arkansas"), ("CA", "California"),
    ("CO", "Colorado"), ("CT", "Connecticut"), ("DE", "Delaware"), ("DC", "District of Columbia"),
    ("FL", "Florida"), ("GA", "Georgia"), ("HI", "Hawaii"), ("ID", "Idaho"), ("IL", "Illinois"),
    ("IN", "Indiana"), ("IA", "Iowa"), ("KS", "Kansas"), ("KY", "Kentucky"), ("LA", "Louisiana"),
    ("ME", "Maine"), ("MD", "Maryland"), ("MA", "Massachusetts"), ("MI", "Michigan"), ("MN", "Minnesota"),
    ("MS", "Mississippi"), ("MO", "Missouri"), ("MT", "Montana"), ("NE", "Nebraska"), ("NV", "Nevada"),
    ("NH", "New Hampshire"), ("NJ", "New Jersey"), ("NM", "New Mexico"), ("NY", "New York"),
    ("NC", "North Carolina"), ("ND", "North Dakota"), ("OH", "Ohio"), ("OK", "Oklahoma"), ("OR", "Oregon"),
    ("PA", "Pennsylvania"), ("RI", "Rhode Island"), ("SC", "South Carolina"), ("SD", "South Dakota"),
    ("TN", "Tennessee"), ("TX", "Texas"), ("UT", "Utah"), ("VT", "Vermont"), ("VA", "Virginia"),
    ("WA", "Washington"), ("WV", "West Virginia"), ("WI", "Wisconsin"), ("WY", "Wyoming"),
];

#[rustfmt::skip]
const CA: &[(&str, &str)] = &[
    ("AB", "Alberta"), ("BC", "British Columbia"), ("MB", "Manitoba"), ("NB", "New Brunswick"),
    ("NL", "Newfoundland"), ("NS", "Nova Scotia"), ("NT", "Northwest Territories"), ("NU", "Nunavut"),
    ("ON", "Ontario"), ("PE", "Prince Edward Island"), ("QC", "Quebec"), ("SK", "Saskatchewan"),
    ("YT", "Yukon Territory"),
];

#[rustfmt::skip]
const AU: &[(&str, &str)] = &[
    ("01", "Australian Capital Territory"), ("02", "New South Wales"), ("03", "Northern Territory"),
    ("04", "Queensland"), ("05", "South Australia"), ("06", "Tasmania"), ("07", "Victoria"),
    ("08", "Western Australia"),
];

#[rustfmt::skip]
const DE: &[(&str, &str)] = &[
    ("01", "Baden-Württemberg"), ("02", "Bayern"), ("03", "Bremen"), ("04", "Hamburg"), ("05", "Hessen"),
    ("06", "Niedersachsen"), ("07", "Nordrhein-Westfalen"), ("08", "Rheinland-Pfalz"), ("09", "Saarland"),
    ("10", "Schleswig-Holstein"), ("11", "Brandenburg"), ("12", "Mecklenburg-Vorpommern"), ("13", "Sachsen"),
    ("14", "Sachsen-Anhalt"), ("15", "Thüringen"), ("16", "Berlin"),
];

#[rustfmt::skip]
const RU: &[(&str, &str)] = &[
    ("01", "Adygeya, Republic of"), ("02", "Aginsky Buryatsky AO"), ("03", "Gorno-Altay"),
    ("04", "Altaisky krai"), ("05", "Amur"), ("06", "Arkhangel'sk"), ("07", "Astrakhan'"),
    ("08", "Bashkortostan"), ("09", "Belgorod"), ("10", "Bryansk"), ("11", "Buryat"), ("12", "Chechnya"),
    ("13", "Chelyabinsk"), ("14", "Chita"), ("15", "Chukot"), ("16", "Chuvashia"), ("17", "Dagestan"),
    ("18", "Evenk"), ("19", "Ingush"), ("20", "Irkutsk"), ("21", "Ivanovo"), ("22", "Kabardin-Balkar"),
    ("23", "Kaliningrad"), ("24", "Kalmyk"), ("25", "Kaluga"), ("26", "Kamchatka"),
    ("27", "Karachay-Cherkess"), ("28", "Karelia"), ("29", "Kemerovo"), ("30", "Khabarovsk"),
    ("31", "Khakass"), ("32", "Khanty-Mansiy"), ("33", "Kirov"), ("34", "Komi"), ("35", "Komi-Permyak"),
    ("36", "Koryak"), ("37", "Kostroma"), ("38", "Krasnodar"), ("39", "Krasnoyarsk"), ("40", "Kurgan"),
    ("41", "Kursk"), ("42", "Leningrad"), ("43", "Lipetsk"), ("44", "Magadan"), ("45", "Mariy-El"),
    ("46", "Mordovia"), ("47", "Moskva"), ("48", "Moscow City"), ("49", "Murmansk"), ("50", "Nenets"),
    ("51", "Nizhegorod"), ("52", "Novgorod"), ("53", "Novosibirsk"), ("54", "Omsk"), ("55", "Orenburg"),
    ("56", "Orel"), ("57", "Penza"), ("58", "Perm'"), ("59", "Primor'ye"), ("60", "Pskov"), ("61", "Rostov"),
    ("62", "Ryazan'"), ("63", "Sakha"), ("64", "Sakhalin"), ("65", "Samara"), ("66", "Saint Petersburg City"),
    ("67", "Saratov"), ("68", "North Ossetia"), ("69", "Smolensk"), ("70", "Stavropol'"),
    ("71", "Sverdlovsk"), ("72", "Tambovskaya oblast"), ("73", "Tatarstan"), ("74", "Taymyr"),
    ("75", "Tomsk"), ("76", "Tula"), ("77", "Tver'"), ("78", "Tyumen'"), ("79", "Tuva"), ("80", "Udmurt"),
    ("81", "Ul'yanovsk"), ("82", "Ust-Orda Buryat"), ("83", "Vladimir"), ("84", "Volgograd"),
    ("85", "Vologda"), ("86", "Voronezh"), ("87", "Yamal-Nenets"), ("88", "Yaroslavl'"), ("89", "Yevrey"),
];
